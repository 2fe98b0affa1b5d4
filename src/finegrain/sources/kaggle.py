"""Kaggle datasets through Kaggle's own client, with time-outs and errors that say what to do.

The client signs in (environment variable, token file, kaggle.json or OAuth), retries and resumes. What it
lacks is added here: a time-out on its first requests, a check of the disk and of the zip, and messages. Its
import has side effects (it signs in and prints), so it is imported inside the function.
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
"""A request, or a pause between two pieces of a download, that takes longer counts as stalled."""

SIGN_IN = (
    "Make a token at https://www.kaggle.com/settings/api and save it as ~/.kaggle/access_token\n"
    "(or as kaggle.json in ~/.kaggle, or set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY,\n"
    "or run `kaggle auth login`)."
)


def download(slug: str, folder: Path) -> Path:
    """Download a dataset's zip, as Kaggle serves it, into ``folder``.

    A broken download lies under ``.checkpoints/downloads`` and is resumed by the next call.

    Args:
        slug: ``owner/dataset/version``.
        folder: made if it is not there; gets ``<dataset>.zip``.

    Raises:
        UserError: no or refused credentials, no rights, wrong slug, too many requests, no network, a stalled
            or failing server, a full disk, or a file that is no zip. No message holds a token or an address.
    """
    partial = paths.checkpoints_folder() / "downloads" / slug.replace("/", "-")
    partial.mkdir(parents=True, exist_ok=True)
    with _default_timeout(), contextlib.redirect_stdout(io.StringIO()), _explain_errors(slug, partial):
        quiet = not sys.stderr.isatty()
        _signed_in_client().dataset_download_files(slug, path=str(partial), quiet=quiet)
    archive = partial / f"{slug.split('/')[1]}.zip"
    if not zipfile.is_zipfile(archive):
        shutil.rmtree(partial)
        raise UserError(f"Kaggle: what it sent for {slug} is not a zip file; try again, or look at its page")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / archive.name
    shutil.move(archive, target)  # data/ may be another disk
    shutil.rmtree(partial)
    return target


def _signed_in_client() -> Any:
    """Kaggle's client, which checks the disk and times out between the pieces of a download."""
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
    """Give every request a time-out: the client sends its first ones without."""
    send = requests.adapters.HTTPAdapter.send

    def patient(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["timeout"] = kwargs.get("timeout") or STALL_SECONDS
        return send(self, request, *args, **kwargs)

    requests.adapters.HTTPAdapter.send = patient  # type: ignore[method-assign]
    try:
        yield
    finally:
        requests.adapters.HTTPAdapter.send = send  # type: ignore[method-assign]


@contextlib.contextmanager
def _explain_errors(slug: str, partial: Path) -> Iterator[None]:
    """Turn what the client raises into a message; its own texts may hold addresses with tokens."""
    kept = f"What has arrived is kept in {partial}: run it again and it goes on from there."
    try:
        yield
    except SystemExit:
        message = f"Kaggle: not signed in: there are no credentials, or Kaggle does not know them.\n{SIGN_IN}"
        raise UserError(message) from None
    except requests.exceptions.HTTPError as error:
        raise UserError(f"Kaggle: {_explain_status(_http_status(error), slug)}") from None
    except requests.exceptions.RequestException as error:
        if _timed_out(error):
            raise UserError(f"Kaggle: the server stalled for {STALL_SECONDS:g} s.\n{kept}") from None
        message = f"Kaggle: no connection ({type(error).__name__}); check the network or the proxy.\n{kept}"
        raise UserError(message) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"Kaggle: the disk is full: {error.strerror}. Make room.\n{kept}") from None
        raise UserError(f"Kaggle: cannot write to {partial}: {error.strerror}") from None
    except ValueError:  # the client's check of the size; kaggle.json that is not JSON
        message = f"Kaggle: the download is incomplete or the credentials file is not JSON.\n{kept}"
        raise UserError(message) from None


def _http_status(error: requests.exceptions.HTTPError) -> int:
    """The HTTP status, which Kaggle may put into the body of a 200."""
    with contextlib.suppress(Exception):
        return int(error.response.json()["code"])  # type: ignore[union-attr]
    return error.response.status_code if error.response is not None else 0


def _explain_status(status: int, slug: str) -> str:
    if status == 401:
        return f"the credentials were refused (401); they may have expired.\n{SIGN_IN}"
    if status == 403:
        return (
            f"no rights to {slug} (403): it is private or misspelt, or its terms must be accepted first\n"
            f"on https://www.kaggle.com/datasets/{slug.rsplit('/', 1)[0]} with the account of your token"
        )
    if status == 404:
        return f"no such dataset or version: {slug} (404); check dataset.slug, owner/dataset/version"
    if status == 429:
        return "too many requests (429); wait some minutes and run it again"
    return f"the server answered {status}; run it again later"


def _timed_out(error: BaseException) -> bool:
    """Whether a time-out is behind it: while streaming, requests calls that a ConnectionError."""
    causes = (error, *error.args)
    return any(
        isinstance(c, requests.exceptions.Timeout | urllib3.exceptions.ReadTimeoutError) for c in causes
    )
