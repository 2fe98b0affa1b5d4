"""Download Kaggle datasets with Kaggle's own client, with timeouts and errors that say what to do.

The client signs in (environment variable, token file, kaggle.json or OAuth), retries and resumes. Added here:
a timeout on its first requests, checks of the disk and of the zip, and error messages. Importing the client
has side effects (it signs in and prints), so it is imported inside the function.
"""

import contextlib
import errno
import io
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import urllib3

from finegrain.core import paths
from finegrain.core.errors import UserError

STALL_SECONDS = 60.0
"""Timeout of a request, and of a pause within a download."""

SIGN_IN = (
    "Create a token at https://www.kaggle.com/settings/api and save it as ~/.kaggle/access_token\n"
    "(or as kaggle.json in ~/.kaggle, or set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY,\n"
    "or run `kaggle auth login`)."
)


def download(slug: str, folder: Path) -> Path:
    """Download a dataset's zip, as Kaggle serves it, into ``folder``.

    An interrupted download stays in ``.checkpoints/downloads`` and is resumed by the next call.

    Args:
        slug: ``owner/dataset/version``.
        folder: created if it does not exist; gets ``<dataset>.zip``.

    Raises:
        UserError: missing or rejected credentials, no permission, wrong slug, too many requests, no network,
            a stalled or failing server, a full disk, or a file that is not a zip. No message contains a
            token or a URL of the download.
    """
    partial = paths.checkpoints_folder() / "downloads" / slug.replace("/", "-")
    partial.mkdir(parents=True, exist_ok=True)
    with _default_timeout(), contextlib.redirect_stdout(io.StringIO()), _explain_errors(slug, partial):
        quiet = not sys.stderr.isatty()
        _signed_in_client().dataset_download_files(slug, path=str(partial), quiet=quiet)
    archive = partial / f"{slug.split('/')[1]}.zip"
    if not zipfile.is_zipfile(archive):
        shutil.rmtree(partial)
        raise UserError(
            f"Kaggle: the file it sent for {slug} is not a zip; try again, or check the dataset's page"
        )
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / archive.name
    shutil.move(archive, target)  # data/ may be on another disk
    shutil.rmtree(partial)
    return target


def _signed_in_client() -> Any:
    """Kaggle's client with a check of the disk and a timeout for pauses within a download."""
    from kaggle.api.kaggle_api_extended import KaggleApi

    class Client(KaggleApi):
        def download_file(self, response: Any, outfile: str, *args: Any, **kwargs: Any) -> None:
            needed = int(response.headers.get("Content-Length") or 0)
            free = shutil.disk_usage(os.path.dirname(outfile)).free
            if needed > free:
                raise OSError(errno.ENOSPC, f"{(needed - free) / 2**20:,.0f} MiB more are needed")
            super().download_file(response, outfile, *args, timeout=STALL_SECONDS, **kwargs)

    client = Client()
    client.authenticate()
    return client


@contextlib.contextmanager
def _default_timeout() -> Iterator[None]:
    """Give every request a timeout: the client sends its first ones without."""
    send = requests.adapters.HTTPAdapter.send

    def send_with_timeout(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["timeout"] = kwargs.get("timeout") or STALL_SECONDS
        return send(self, request, *args, **kwargs)

    requests.adapters.HTTPAdapter.send = send_with_timeout  # type: ignore[method-assign]
    try:
        yield
    finally:
        requests.adapters.HTTPAdapter.send = send  # type: ignore[method-assign]


@contextlib.contextmanager
def _explain_errors(slug: str, partial: Path) -> Iterator[None]:
    """Turn the client's exceptions into UserErrors; its own messages may contain URLs with tokens."""
    resume = f"The part already downloaded is kept in {partial}; run it again to resume."
    try:
        yield
    except SystemExit:
        message = f"Kaggle: not signed in: credentials are missing or not known to Kaggle.\n{SIGN_IN}"
        raise UserError(message) from None
    except requests.exceptions.HTTPError as error:
        raise UserError(f"Kaggle: {_explain_status(_http_status(error), slug)}") from None
    except requests.exceptions.RequestException as error:
        if _timed_out(error):
            raise UserError(f"Kaggle: the server sent nothing for {STALL_SECONDS:g} s.\n{resume}") from None
        message = f"Kaggle: no connection ({type(error).__name__}); check the network or the proxy.\n{resume}"
        raise UserError(message) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            message = f"Kaggle: the disk is full: {error.strerror}. Free some space.\n{resume}"
            raise UserError(message) from None
        raise UserError(f"Kaggle: cannot write to {partial}: {error.strerror}") from None
    except ValueError:  # the client's check of the size, or a kaggle.json that is not JSON
        message = f"Kaggle: the download is incomplete or the credentials file is not JSON.\n{resume}"
        raise UserError(message) from None


def _http_status(error: requests.exceptions.HTTPError) -> int:
    """The HTTP status, which Kaggle may put into the body of a response with status 200."""
    with contextlib.suppress(Exception):
        return int(error.response.json()["code"])  # type: ignore[union-attr]
    return error.response.status_code if error.response is not None else 0


def _explain_status(status: int, slug: str) -> str:
    if status == 401:
        return f"the credentials were rejected (401); they may have expired.\n{SIGN_IN}"
    if status == 403:
        return (
            f"no permission for {slug} (403): it is private, misspelled, or you must first accept its terms\n"
            f"on https://www.kaggle.com/datasets/{slug.rsplit('/', 1)[0]} with the account of your token"
        )
    if status == 404:
        return f"no such dataset or version: {slug} (404); check dataset.slug, owner/dataset/version"
    if status == 429:
        return "too many requests (429); wait a few minutes and run it again"
    return f"the server returned status {status}; run it again later"


def _timed_out(error: BaseException) -> bool:
    """Whether the cause is a timeout, which requests reports as a ConnectionError while streaming."""
    causes = (error, *error.args)
    return any(
        isinstance(c, requests.exceptions.Timeout | urllib3.exceptions.ReadTimeoutError) for c in causes
    )
