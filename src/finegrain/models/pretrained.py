"""Read the weights that a network begins with: torchvision's, a file's, the Hub's, or a trained model's."""

import json
import os
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import safetensors.torch
import torch
import torchvision
from pydantic import BaseModel, Field, FiniteFloat, ValidationError
from torch import Tensor

from finegrain.config import weights as weights_names
from finegrain.config.base import PositiveFloat
from finegrain.config.messages import describe_first
from finegrain.config.training import HeadParams
from finegrain.config.weights import HubRepository
from finegrain.core import file_io, local_files, log, paths
from finegrain.core.errors import UserError, some
from finegrain.loading.batches import IMAGENET_MEAN_STD
from finegrain.models import storage
from finegrain.models.build import InitialWeights

IMAGENET_CLASSES = 1000
_STATE_DICT = "save the network's state_dict() alone"


def read_weights(model: str, weights: str) -> InitialWeights | Literal["none"]:
    """Read the weights that params.yaml names for a model.

    Args:
        model: name of the network.
        weights: a ``config.weights.WeightsName``.

    Raises:
        UserError: they are unknown, cannot be downloaded or read, or are those of another network.
    """
    if weights == "none":
        return "none"
    if repository := weights_names.hub_repository(weights):
        return _read_file(model, weights, _download_repository(repository))
    if file := weights_names.local_file(weights):
        return _read_file(model, weights, file)
    return _read_torchvision(model, weights)


def record(
    weights: InitialWeights | Literal["none"], classes: Sequence[str], head: HeadParams | None
) -> dict[str, Any]:
    """The record of a model's initial weights, for its metadata.

    Args:
        classes: names of the model's classes.
        head: head of the model; None if it is solved before any phase trains it.
    """
    if weights == "none":
        return {"name": "none"}
    if weights.head is None:
        return weights.origin
    if head is None:
        return weights.origin | {"head": "solved"}
    if not weights.has_head(head):
        return weights.origin | {"head": "new"}
    changes = {
        "kept_classes": len(set(classes) & set(weights.classes)),
        "new_classes": [name for name in classes if name not in weights.classes],
        "dropped_classes": [name for name in weights.classes if name not in classes],
    }
    return weights.origin | {"head": "kept"} | changes


def describe(recorded: dict[str, Any]) -> str:
    """One line on what ``record`` returned."""
    start = f"begins with the weights {recorded['name']}"
    if "head" not in recorded:
        return start + (f" ({recorded['file']})" if "file" in recorded else "")
    if recorded["head"] == "solved":
        return f"{start}; their head is not used, as a new one is solved"
    if recorded["head"] == "new":
        return f"{start}; its head differs from `head` in params.yaml: a new one is trained"
    new, dropped = (some(recorded[f"{kind}_classes"], 10) or "none" for kind in ("new", "dropped"))
    return f"{start} and its head: {recorded['kept_classes']} classes kept; new: {new}; dropped: {dropped}"


def _read_torchvision(model: str, weights: str) -> InitialWeights:
    """Weights by name, from torch.hub's cache or the internet.

    Raises:
        UserError: the model has no weights of that name, or the download fails.
    """
    known = torchvision.models.get_model_weights(model)
    if weights not in known.__members__:
        raise UserError(
            f"params.yaml: weights: {model} has no weights '{weights}'; allowed: none, "
            f"{', '.join(known.__members__)}, a .safetensors or .pth file, the folder of a trained model, or "
            "a repository of the Hub"
        )
    entry = known[weights]
    try:
        state = entry.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        file = _cache() / entry.url.rsplit("/", 1)[-1]
        raise UserError(
            f"params.yaml: weights: {weights} of {model} cannot be downloaded ({error}).\n"
            f"Check the internet connection, save {entry.url} as {file}, or set weights: none"
        ) from None
    preset, origin = entry.transforms(), {"name": entry.name, "file": entry.url.rsplit("/", 1)[-1]}
    return InitialWeights(weights, state, (list(preset.mean), list(preset.std)), origin)


def _read_file(model: str, weights: str, file: Path) -> InitialWeights:
    """A trained model, or tensors with torchvision's names, which are timm's too.

    Raises:
        UserError: the file cannot be read, or is one of another network.
    """
    metadata = weights_names.metadata_file(file)
    content = file_io.read_json(metadata) if metadata else None
    name = weights if weights_names.hub_repository(weights) else local_files.name(weights)
    if metadata and isinstance(content, dict) and "format" in content:
        net, content = storage.load_model(file, metadata)
        _require_model(model, content["model"], weights)
        head = HeadParams.model_validate(content["recipe"]["head"])
        origin = {"name": name, "sha256": content["sha256"]}
        mean_std = (content["mean"], content["std"])
        return InitialWeights(weights, net.state_dict(), mean_std, origin, head, content["classes"])
    state, mean_std = _read_tensors(file), IMAGENET_MEAN_STD
    if metadata and metadata.name == weights_names.TIMM_CONFIG:
        config = _read_timm_config(metadata, content)
        _require_model(model, config.architecture, weights)
        mean_std = (config.pretrained_cfg.mean, config.pretrained_cfg.std)
    elif "fc.weight" in state and len(state["fc.weight"]) != IMAGENET_CLASSES:
        log.info(
            f"warning: {file}: no {file.stem}.json beside it: its head is not used, and ImageNet's "
            "normalization is assumed"
        )
    return InitialWeights(weights, state, mean_std, {"name": name, "sha256": file_io.sha256(file)})


def _require_model(model: str, found: str, weights: str) -> None:
    if found != model:
        raise UserError(
            f"params.yaml: weights: {weights} is a {found}, not a {model}; where models begin with different "
            f"weights, give a mapping, as {{{found}: {weights}, {model}: DEFAULT}}"
        )


class _TimmNormalization(BaseModel):
    mean: Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)] = IMAGENET_MEAN_STD[0]
    std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)] = IMAGENET_MEAN_STD[1]


class _TimmConfig(BaseModel):
    """What is used of timm's config.json.

    Without it, a network with the same tensors that computes something else could not be recognized, such as
    one with other pooling in its stem.
    """

    architecture: str
    pretrained_cfg: _TimmNormalization = _TimmNormalization()


def _read_timm_config(file: Path, content: Any) -> _TimmConfig:
    try:
        return _TimmConfig.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{file}: {describe_first(error)}; timm writes this file with its weights") from None


def _read_tensors(file: Path) -> dict[str, Tensor]:
    """State dict of a .safetensors or .pth file.

    Raises:
        UserError: the file is missing, broken, or holds something other than tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        with warnings.catch_warnings(action="ignore"):  # of newer pickle protocols, which load too
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise local_files.not_found("weights", file) from None
    except Exception as error:  # torch raises a dozen types of error for a broken file
        reason = str(error).split(". ")[0].splitlines()[0] if str(error) else "it is empty"
        if reason == "Weights only load failed":
            if "GLOBAL" in str(error):  # a class or function, which is not loaded
                raise UserError(
                    f"params.yaml: weights: {file} holds more than tensors; {_STATE_DICT}"
                ) from None
            reason = "not a file of torch.save"
        raise UserError(
            f"params.yaml: weights: {file} cannot be read ({reason}); it is damaged or of another kind"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"params.yaml: weights: {file} holds more than tensors; {_STATE_DICT}")
    return state


def _download_repository(repository: HubRepository) -> Path:
    """Download the weights of a Hub repository and their metadata, once, into torch.hub's cache.

    The Hub's list of files has the SHA-256 of the weights, by which they are checked.

    Returns:
        The weights file.

    Raises:
        UserError: the repository has no such files, or the download fails.
    """
    folder = _cache() / f"{repository.name.replace('/', '--')}@{repository.commit}"
    file, sidecar = paths.exported_model(folder)
    if file.is_file():
        return file
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{hub}/{repository.name}/resolve/{repository.commit}"
    listing = f"{hub}/api/models/{repository.name}/revision/{repository.commit}?blobs=true"
    try:
        with urllib.request.urlopen(listing, timeout=60) as answer:
            listed = {each["rfilename"]: each for each in json.load(answer)["siblings"]}
        if file.name not in listed or not listed.keys() & {sidecar.name, weights_names.TIMM_CONFIG}:
            raise UserError(
                f"params.yaml: weights: {repository} holds no {file.name} with {weights_names.TIMM_CONFIG}; "
                "give a repository of timm or one made by `finegrain export`"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        for name in (sidecar.name, weights_names.TIMM_CONFIG):
            if name in listed:
                torch.hub.download_url_to_file(f"{url}/{name}", str(file.with_name(name)), progress=False)
        sha256 = listed[file.name]["lfs"]["sha256"]
        torch.hub.download_url_to_file(f"{url}/{file.name}", str(file), hash_prefix=sha256)
    except (OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
        missing = isinstance(error, urllib.error.HTTPError) and error.code in (401, 404)
        fix = "check its name and commit" if missing else "check the internet connection"
        raise UserError(
            f"params.yaml: weights: {repository} cannot be downloaded ({error}).\n"
            f"{fix[0].upper()}{fix[1:]}, or save {url}/{file.name} as {file} and "
            f"{weights_names.TIMM_CONFIG} beside it"
        ) from None
    return file


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"
