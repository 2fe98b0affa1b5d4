"""The exported folder: its file names, and how it is found on disk or on the Hugging Face Hub."""

import os
import re
from pathlib import Path

from finegrain import optional_deps
from finegrain.core import paths
from finegrain.core.errors import UserError

WEIGHTS, SIDECAR = (file.name for file in paths.exported_model(Path()))
GRAPH = "model.onnx"
LABELS = "labels.txt"
DECODING = "decoding.py"
CARD = "README.md"
CONFIG = "config.json"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds the weights and the sidecar of an exported model."""
    return all(file.is_file() for file in paths.exported_model(folder))


def local_model_folder(path: str | Path) -> Path:
    """Check that a path is an exported folder, and expand ``~`` in it.

    Raises:
        UserError: it is not an exported folder.
    """
    folder = Path(os.path.expanduser(path))
    if not is_model_folder(folder):
        problem = f"holds no {WEIGHTS} with {SIDECAR}" if folder.is_dir() else "no such folder"
        raise UserError(f"{path}: {problem}; give a folder that `finegrain export` wrote")
    return folder


def find_model_folder(name_or_path: str | Path, revision: str | None = None) -> Path:
    """Find an exported model on disk, or else download it from the Hugging Face Hub into the Hub's cache.

    Args:
        name_or_path: a folder, or the ``owner/name`` of a Hub repository.
        revision: branch, tag or commit of the repository; None means its main branch.

    Raises:
        UserError: there is no such folder or repository, it holds no finegrain model, or the download fails.
    """
    if Path(os.path.expanduser(name_or_path)).is_dir() or not _HUB_ID.fullmatch(str(name_or_path)):
        if revision is not None:
            raise UserError(f"{name_or_path}: not a Hub repository, so it has no revision {revision}")
        return local_model_folder(name_or_path)
    folder = _download(str(name_or_path), revision)
    if not is_model_folder(folder):
        raise UserError(
            f"{name_or_path}: the repository holds no {WEIGHTS} with {SIDECAR}; "
            "give one that was made by `finegrain export`"
        )
    return folder


def _download(repository: str, revision: str | None) -> Path:
    """Download weights and sidecar; later calls use the cache unless the repository has changed."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # huggingface_hub reads it when it is imported
    with optional_deps.required_for("a model of the Hugging Face Hub"):
        from huggingface_hub import errors, snapshot_download
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[WEIGHTS, SIDECAR]))
    except errors.GatedRepoError:
        problem = "accept its terms on its Hub page, then log in: `hf auth login`"
    except errors.RepositoryNotFoundError:
        problem = "no such folder, and no such repository on the Hub; if it is private: `hf auth login`"
    except errors.RevisionNotFoundError:
        problem = f"the repository has no revision {revision}"
    except Exception as error:  # the Hub's client and its HTTP client raise a dozen kinds
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        problem = (
            f"cannot be downloaded ({reason}); check the network, "
            "or download it on another machine and give the folder"
        )
    raise UserError(f"{repository}: {problem}")
