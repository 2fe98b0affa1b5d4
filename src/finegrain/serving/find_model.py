"""Find a trained model by file, folder, run or model name, and check it against dvc.lock."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finegrain.config import params
from finegrain.core import dvc_cache, file_io, log, paths
from finegrain.core.dvc_cache import LOCK
from finegrain.core.errors import UserError, some
from finegrain.serving import hub

_RUN_NAME = re.compile(r".+-\d+")
"""A model and a seed, such as ``resnet18-0``."""


def find_model(name: str | None) -> tuple[Path, Path]:
    """Find the weights file of a model and its sidecar.

    A run or a model must be what dvc.lock records, and is printed. A file or a folder of this project that
    dvc.lock does not record is used with a warning.

    Args:
        name: a weights file (``file.safetensors``), an exported folder (``exported/resnet18``), a run
            (``resnet18-0``), or a model (``resnet18``), which means its best run on validation. None means
            the leaderboard's winner.

    Raises:
        UserError: there is no such model, or its files are those of another commit or dataset.
    """
    files = _named_files(name)
    if files:
        if missing := [file for file in files if not file.is_file()]:
            raise UserError(
                f"{missing[0]}: not found; a model is two files, {files[0].name} and {files[1].name}; in a "
                "project `dvc repro` makes them, `dvc pull` fetches them"
            )
        if problem := unrecorded(files):
            log.info(f"warning: {problem}")
        return files
    dataset = _project_params().dataset.name
    if name and _RUN_NAME.fullmatch(name) and paths.Run.from_name(dataset, name).weights.is_file():
        run = paths.Run.from_name(dataset, name)
    else:
        run = paths.Run.from_name(dataset, _best_run(name, dataset))
    if problem := unrecorded((run.weights, run.sidecar)):
        raise UserError(f"{problem}, or give the file itself: --model {run.weights}")
    log.info(f"model: {run.weights}")
    return run.weights, run.sidecar


def _named_files(name: str | None) -> tuple[Path, Path] | None:
    """The files of a name that is a weights file or an exported folder; None for any other."""
    if name and name.endswith(".safetensors"):
        return Path(name), Path(name).with_suffix(".json")
    if name and is_model_folder(name):
        return paths.exported_model(hub.local_model_folder(name))
    return None


def _best_run(model: str | None, dataset: str) -> str:
    """Name of a model's best run on validation, as the leaderboard lists it."""
    board = file_io.read_json(paths.LEADERBOARD)
    if board.get("dataset", dataset) != dataset:
        raise UserError(
            f"{paths.LEADERBOARD} has models of dataset {board['dataset']}, but params.yaml names {dataset}; "
            f"run `dvc repro`, or use the other winner: --model {paths.winner_folder(board['dataset'])}"
        )
    model = model or board["winner"]
    if model not in board["models"]:
        raise UserError(
            f"{model}: no such model; give one of {some(board['models'], 20)}, or a .safetensors file"
        )
    return str(board["models"][model]["run"])


def unrecorded(files: tuple[Path, Path]) -> str | None:
    """Why a model of this project is not the one of dvc.lock, with the remedy; None if nothing shows that.

    After `git checkout` without `dvc checkout`, dvc.lock is the new commit's and the model the old one's.

    Args:
        files: the weights file and its sidecar; those from elsewhere are not checked.
    """
    if not all(file.is_file() for file in files) or not LOCK.is_file():
        return None
    here = Path.cwd()
    own = [file.resolve().relative_to(here) for file in files if file.resolve().is_relative_to(here)]
    if not own or own[0].parts[0] not in ("models", "winner"):
        return None
    recorded = dvc_cache.recorded_outputs()
    for file in own:
        out = recorded.get(str(file)) or _member(recorded.get(str(file.parent)), file)
        if out is None:
            return f"{file}: {LOCK} records no such file: it is of an earlier run; `dvc repro` makes it again"
        if not _is_recorded(file, out):
            return f"{file} is not the file that {LOCK} records; `dvc checkout {file}` restores that"
    return None


def _member(folder: Mapping[str, Any] | None, file: Path) -> Mapping[str, Any] | None:
    """What DVC's cache knows of a file in an output that is a folder; None if it has no list of it."""
    if folder is None:
        return None
    members = dvc_cache.members(folder["md5"])
    if members is None:  # not in this cache: nothing is known
        return {}
    return {"md5": members[file.name]} if file.name in members else None


def _is_recorded(file: Path, out: Mapping[str, Any]) -> bool:
    if out.get("size", file.stat().st_size) != file.stat().st_size:
        return False
    if "md5" not in out:
        return True
    with file.open("rb") as stream:
        return (
            hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == out["md5"]
        )


def is_model_folder(name: str) -> bool:
    """Whether a model name means an exported folder: it is one, or it contains a slash."""
    return "/" in name or hub.is_model_folder(Path(name))


def evaluation_settings(name: str | None) -> dict[str, Any]:
    """Default settings of a prediction: flip, image_size, device and precision.

    The project's own models are evaluated as in stage evaluate, by params.yaml. A weights file or an
    exported folder is evaluated at the image size of its training and without the flip.

    Args:
        name: as for ``find_model``.
    """
    if name and (name.endswith(".safetensors") or is_model_folder(name)):
        return {"flip": False, "image_size": None, "device": "auto", "precision": "auto"}
    config = _project_params()
    return {**dict(config.evaluate), "device": config.device, "precision": config.precision}


def _project_params() -> params.Params:
    if not paths.PARAMS.is_file():
        raise UserError(
            f"{paths.PARAMS}: not found; run this in the project's folder, or give the file or folder of a "
            "model: --model winner/sample"
        )
    return params.load_params()
