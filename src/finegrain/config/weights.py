"""What ``weights`` in params.yaml can name, and the local files that it means."""

import re
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from finegrain.config.base import ModelName
from finegrain.core import paths
from finegrain.core.errors import UserError

SUFFIXES = (".safetensors", ".pth", ".pt")
"""Of files with weights."""
TIMM_CONFIG = "config.json"
"""Beside the weights in a Hub repository of timm: their architecture and normalization."""
_TORCHVISION = re.compile(r"[A-Z][A-Z0-9_]*")
_LIKE_TORCHVISION = re.compile(r"default|imagenet\w*", re.IGNORECASE)
_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)@([\w./-]+)", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMM = re.compile(r"timm/[\w.-]+", re.ASCII)


class HubRepository(NamedTuple):
    """A repository of the Hugging Face Hub at a commit."""

    name: str
    """``owner/name``."""
    commit: str

    def __str__(self) -> str:
        return f"{self.name}@{self.commit}"


def _require_known_form(weights: str) -> str:
    """Reject what no file can be called, and torchvision's names in small letters, taken for folders.

    Likewise a Hub repository without a commit: a branch moves, so that a result could not be repeated.
    """
    longest = max(len(part.encode("utf-8", "replace")) for part in weights.split("/"))
    if "\0" in weights or longest > 255 or len(weights) > 1000:
        raise PydanticCustomError("name", "no file can have such a name")
    if not is_torchvision(weights) and _LIKE_TORCHVISION.fullmatch(weights):
        text = "no weights have this name; did you mean '{name}'?"
        name = weights.upper() if weights.upper() != "IMAGENET" else "IMAGENET1K_V1"
        raise PydanticCustomError("name", text, {"name": name})
    match = _HUB.fullmatch(weights)
    if (match and not _COMMIT.fullmatch(match[2])) or _TIMM.fullmatch(weights):
        name = match[1] if match else weights
        text = "the revision is required, as {name}@ and the 40 digits of a commit, so that results stay "
        text += "reproducible; https://huggingface.co/{name}/commits/main lists them"
        raise PydanticCustomError("commit", text, {"name": name})
    return weights


WeightsName = Annotated[str, Field(min_length=1), AfterValidator(_require_known_form)]
Weights = Annotated[
    Annotated[WeightsName, Tag("@of all")] | Annotated[dict[ModelName, WeightsName], Tag("@by model")],
    Discriminator(lambda value: "@by model" if isinstance(value, dict) else "@of all"),
]
"""The same for all models, or a mapping from each model to its own."""


def is_torchvision(weights: str) -> bool:
    """Whether it is the name of weights that torchvision downloads, or would be."""
    return _TORCHVISION.fullmatch(weights) is not None


def hub_repository(weights: str) -> HubRepository | None:
    """The repository that the weights are downloaded from; None if they are not on the Hub."""
    match = _HUB.fullmatch(weights)
    return HubRepository(match[1], match[2]) if match else None


def local_file(weights: str) -> Path | None:
    """The file with the weights on this machine, which may be missing; None if they are not in a file.

    Raises:
        UserError: it is a file of another kind.
    """
    if weights == "none" or is_torchvision(weights) or hub_repository(weights):
        return None
    path = paths.user_path(weights)
    if path.suffix in SUFFIXES:
        return path
    if path.is_file():
        raise UserError(
            f"params.yaml: weights: {path}: must be a file of type {', '.join(SUFFIXES)}, or the folder of a "
            "trained model"
        )
    return paths.exported_model(path)[0]


def metadata_file(weights: Path) -> Path | None:
    """The JSON file beside a weights file that says what it is: a trained model's sidecar, or timm's."""
    beside = [weights.with_suffix(".json")]
    if weights.name == paths.exported_model(Path())[0].name:
        beside.append(weights.with_name(TIMM_CONFIG))
    return next((file for file in beside if file.is_file()), None)
