"""Find a trained model by its file, folder, run or model name."""

import re
from pathlib import Path
from typing import Any

from finegrain.config import params
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.serving import hub

_RUN_NAME = re.compile(r".+-\d+")
"""A model and a seed, such as ``resnet18-0``."""


def find_model(name: str | None) -> tuple[Path, Path]:
    """Find the weights file of a model and its sidecar.

    Args:
        name: a weights file (``file.safetensors``), an exported folder (``exported/resnet18``), a run
            (``resnet18-0``), or a model (``resnet18``), which means its best run on validation. None means
            the leaderboard's winner.

    Raises:
        UserError: there is no such model.
    """
    if name and name.endswith(".safetensors"):
        return Path(name), Path(name).with_suffix(".json")
    if name and is_model_folder(name):
        return paths.exported_model(hub.local_model_folder(name))
    dataset = params.load_params().dataset.name
    if name and _RUN_NAME.fullmatch(name) and paths.Run.from_name(dataset, name).weights.is_file():
        run = paths.Run.from_name(dataset, name)
    else:
        run = paths.Run.from_name(dataset, _best_run(name))
    return run.weights, run.sidecar


def _best_run(model: str | None) -> str:
    """Name of a model's best run on validation, as the leaderboard lists it."""
    board = file_io.read_json(paths.LEADERBOARD)
    model = model or board["winner"]
    if model not in board["models"]:
        known = ", ".join(board["models"])
        raise UserError(f"{model}: no such model; give one of {known}, or a .safetensors file")
    return str(board["models"][model]["run"])


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
    config = params.load_params()
    return {**dict(config.evaluate), "device": config.device, "precision": config.precision}
