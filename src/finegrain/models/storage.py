"""Save a trained model with its metadata, and load it again."""

from pathlib import Path
from typing import Annotated, Any

import safetensors
import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor, nn

from finegrain.config.base import ImageSize, PositiveFloat
from finegrain.config.params import ModelName, Sha256
from finegrain.config.training import HeadParams
from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.models import build

FORMAT = 3
"""Version of the sidecar beside a weights file."""


def save_model(weights: Path, sidecar: Path, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write weights as safetensors, and beside them what is needed to use them, with the weights' sha256."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    plain = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    file_io.write_bytes(weights, safetensors.torch.save(plain))
    file_io.write_json(sidecar, {"format": FORMAT, "sha256": file_io.sha256(weights), **facts})


class _Recipe(BaseModel):
    head: HeadParams


class _Sidecar(BaseModel):
    """What of a sidecar is used: it may come from anywhere."""

    model_config = ConfigDict(strict=True)
    sha256: Sha256
    model: ModelName
    classes: Annotated[list[str], Field(min_length=2)]
    image_size: ImageSize
    pack_image_size: ImageSize
    mean: Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]
    std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)]
    refit: bool
    temperature: PositiveFloat
    unknown_below: Annotated[float, Field(ge=0, le=1)]
    recipe: _Recipe


def load_model(weights: Path, sidecar: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model and its sidecar.

    Raises:
        UserError: a file is missing, changed since it was written, of another format, or they do not fit.
    """
    facts = file_io.read_json(sidecar)
    version = facts.get("format") if isinstance(facts, dict) else None
    if version != FORMAT:
        raise UserError(f"{sidecar}: format {version} instead of {FORMAT}; train the model again")
    try:
        wanted = _Sidecar.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{sidecar}: {where}: {first['msg']}; fetch it or train the model again") from None
    if not weights.is_file():
        raise UserError(f"{weights}: not found; `dvc repro` makes it, `dvc pull` fetches it")
    if file_io.sha256(weights) != wanted.sha256:
        raise UserError(
            f"{weights}: differs from the sha256 in {sidecar.name}: damaged; fetch or train it again"
        )
    net = build.build_model(wanted.model, len(wanted.classes), "none", wanted.recipe.head, seed=0)
    try:
        net.load_state_dict(safetensors.torch.load_file(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{weights}: does not fit {sidecar.name} ({reason}); train the model again") from None
    return net, facts
