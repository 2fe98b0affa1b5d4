"""Save a trained model with its metadata, and load it again."""

from pathlib import Path
from typing import Annotated, Any

import safetensors
import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor, nn

from finegrain.config.base import ImageFit, ImageSize, ModelName, PositiveFloat
from finegrain.config.dataset import Sha256
from finegrain.config.messages import describe_first
from finegrain.config.training import HeadParams
from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.models import build

FORMAT = 4
"""Version of the metadata file beside a weights file; 4 renamed the keys of image sizes."""


def save_model(weights: Path, sidecar: Path, state: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write the weights as safetensors, and beside them the metadata with the weights' sha256."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    file_io.write_bytes(weights, safetensors.torch.save(tensors))
    file_io.write_json(sidecar, {"format": FORMAT, "sha256": file_io.sha256(weights), **metadata})


class _Recipe(BaseModel):
    head: HeadParams


class _Sidecar(BaseModel):
    """The metadata that is needed to use a model; validated, because the file may come from anyone."""

    model_config = ConfigDict(strict=True)
    sha256: Sha256
    model: ModelName
    classes: Annotated[list[str], Field(min_length=2)]
    image_size: ImageSize
    pack_image_size: ImageSize
    pack_fit: ImageFit = "squash"
    """Files from before there was a choice lack it."""
    mean: Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]
    std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)]
    refit: bool
    temperature: PositiveFloat
    unknown_below: Annotated[float, Field(ge=0, le=1)]
    recipe: _Recipe


def load_model(weights: Path, sidecar: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load a trained network, on the CPU, and its metadata.

    Raises:
        UserError: a file is missing, of another format or invalid, was changed since it was written, or the
            two do not fit each other.
    """
    metadata = file_io.read_json(sidecar)
    spec = _validate_metadata(metadata, sidecar)
    if not weights.is_file():
        raise UserError(f"{weights}: not found; `dvc repro` makes it, `dvc pull` fetches it")
    if file_io.sha256(weights) != spec.sha256:
        raise UserError(
            f"{weights}: damaged, or of another training than {sidecar.name}, which has another sha256; in a "
            "project `dvc checkout` restores both; elsewhere copy both files again"
        )
    net = build.build_model(spec.model, len(spec.classes), "none", spec.recipe.head, seed=0)
    try:
        net.load_state_dict(safetensors.torch.load_file(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{weights}: does not fit {sidecar.name} ({reason}); train the model again") from None
    return net, {**metadata, "pack_fit": spec.pack_fit}


def _validate_metadata(metadata: Any, sidecar: Path) -> _Sidecar:
    """Check the format and the keys that are used.

    Raises:
        UserError: another format, or a missing or invalid key.
    """
    version = metadata.get("format") if isinstance(metadata, dict) else None
    if version != FORMAT:
        raise UserError(
            f"{sidecar}: format {version}, but this version of finegrain reads format {FORMAT}; "
            "train the model again"
        )
    try:
        return _Sidecar.model_validate(metadata)
    except ValidationError as error:
        raise UserError(f"{sidecar}: {describe_first(error)}; `dvc repro` makes the model again") from None
