"""The folder that `finegrain export` makes: its files, and where such a folder is found."""

import os
import re
from pathlib import Path

from finegrain import optional_deps
from finegrain.core import paths
from finegrain.core.errors import UserError

WEIGHTS, SIDECAR = (file.name for file in paths.exported_model(Path()))
GRAPH = "model.onnx"
LABELS = "labels.txt"
CARD = "README.md"
CONFIG = "config.json"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


def is_model_folder(folder: Path) -> bool:
    return all(file.is_file() for file in paths.exported_model(folder))


def local_model_folder(place: str | Path) -> Path:
    """The folder, once it is known to be an exported one.

    Raises:
        UserError: it is not.
    """
    folder = Path(os.path.expanduser(place))
    if not is_model_folder(folder):
        what = f"holds no {WEIGHTS} with {SIDECAR}" if folder.is_dir() else "no such folder"
        raise UserError(f"{place}: {what}; give a folder that `finegrain export` made")
    return folder


def find_model_folder(place: str | Path, revision: str | None = None) -> Path:
    """A folder on disk, or else the two files of a repository of the Hugging Face Hub, in the Hub's cache.

    Args:
        place: the folder, or ``owner/name``.
        revision: branch, tag or commit of the repository; None: its main branch.

    Raises:
        UserError: there is none, it holds no model of finegrain, or it cannot be fetched.
    """
    if Path(os.path.expanduser(place)).is_dir() or not _HUB_ID.fullmatch(str(place)):
        if revision is not None:
            raise UserError(f"{place}: is not a repository of the Hub, so it has no revision {revision}")
        return local_model_folder(place)
    folder = _download(str(place), revision)
    if not is_model_folder(folder):
        raise UserError(f"{place}: the repository holds no {WEIGHTS} with {SIDECAR}: no model of finegrain")
    return folder


def _download(repository: str, revision: str | None) -> Path:
    """Fetched once, then taken from the cache unless the repository has a newer one."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read at import: ask for the files, no more
    with optional_deps.required_for("a model of the Hugging Face Hub"):
        from huggingface_hub import errors, snapshot_download
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[WEIGHTS, SIDECAR]))
    except errors.GatedRepoError:
        reason = "accept its terms on its page, then sign in: `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = "no folder has this name, and the Hub no such repository; if it is private: `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"the repository has no revision {revision}"
    except Exception as error:  # the Hub's client and its HTTP client raise a dozen kinds
        said = str(error).strip().split("\n")[0] or type(error).__name__
        reason = f"cannot be fetched ({said}); mend the network, or fetch it elsewhere and give the folder"
    raise UserError(f"{repository}: {reason}")
