"""Find a trained model by its file, folder, run or model name."""

import re
from pathlib import Path
from typing import Any

from finegrain.config import params
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.serving import hub

_RUN_NAME = re.compile(r".+-\d+")
"""Of a training's name: model and seed."""


def find_model(wanted: str | None) -> tuple[Path, Path]:
    """Weights and sidecar of a file, an exported folder, a run, a model, or the leaderboard's winner.

    Args:
        wanted: such as ``file.safetensors``, ``exported/resnet18``, ``resnet18-0``, or ``resnet18``, of which
            the training is taken that is best on validation.

    Raises:
        UserError: there is none.
    """
    if wanted and wanted.endswith(".safetensors"):
        return Path(wanted), Path(wanted).with_suffix(".json")
    if wanted and is_model_folder(wanted):
        return paths.exported_model(hub.local_model_folder(wanted))
    dataset = params.load_params().dataset.name
    if wanted and _RUN_NAME.fullmatch(wanted) and paths.Run.named(dataset, wanted).weights.is_file():
        name = wanted
    else:
        board = file_io.read_json(paths.LEADERBOARD)
        model = wanted or board["winner"]
        if model not in board["models"]:
            known = ", ".join(board["models"])
            raise UserError(f"{model}: no such model; trained are {known}, or give a .safetensors file")
        name = board["models"][model]["run"]
    run = paths.Run.named(dataset, name)
    return run.weights, run.sidecar


def is_model_folder(wanted: str) -> bool:
    """An exported one; a slash says that it is meant."""
    return "/" in wanted or hub.is_model_folder(Path(wanted))


def evaluation_settings(wanted: str | None) -> dict[str, Any]:
    """How a model is asked unless the user says otherwise: the project's as evaluate asks it, others plainly.

    Args:
        wanted: as for ``find_model``.
    """
    if wanted and (wanted.endswith(".safetensors") or is_model_folder(wanted)):
        return {"flip": False, "image_size": None, "device": "auto", "precision": "auto"}
    config = params.load_params()
    return {**dict(config.evaluate), "device": config.device, "precision": config.precision}
