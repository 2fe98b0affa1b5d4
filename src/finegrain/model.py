"""torchvision's classifiers by name: build, head, layer groups, freeze, save, load."""

import urllib.error
from pathlib import Path
from typing import Annotated, Any

import safetensors
import safetensors.torch
import torch
import torchvision
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor, nn

from finegrain import paths, record
from finegrain.errors import UserError
from finegrain.params import ModelName, Sha256
from finegrain.recipe import Head
from finegrain.section import PositiveFloat, Side

FORMAT = 3
"""Version of the sidecar beside a weights file."""


def build(name: str, classes: int, weights: str, head: Head, seed: int) -> nn.Module:
    """A model with a new head.

    Args:
        name: a torchvision ResNet, ResNeXt, Wide ResNet or EfficientNet.
        weights: ``none`` (torchvision's random initialisation from ``seed``), the name of pretrained
            weights such as ``IMAGENET1K_V2``, or a .safetensors or .pth file of the same architecture.
        head: a plain one is a linear layer at the place of the last one (after EfficientNet's own dropout);
            any other takes the place of all that follows the pooling.

    Raises:
        UserError: no such weights, a download that fails, or a file that does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = torchvision.models.get_model(name, weights=None)
        if weights != "none":
            _load_backbone(net, name, weights)
        _replace_head(net, head, classes)
    return net.to(memory_format=torch.channels_last)


def pretrained(weights: str) -> bool:
    """Whether the weights expect ImageNet's normalisation."""
    return weights != "none"


def head(net: nn.Module) -> nn.Module:
    """All that follows the pooling: a linear layer, or several."""
    return getattr(net, _head_name(net))


def _head_name(net: nn.Module) -> str:
    return "fc" if hasattr(net, "fc") else "classifier"


class _MeanAndMax(nn.Module):
    """The mean and the maximum of each feature map, ``[N, C, H, W]`` to ``[N, 2C, 1, 1]``."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat((features.amax((2, 3), keepdim=True), features.mean((2, 3), keepdim=True)), 1)


def _replace_head(net: Any, wanted: Head, classes: int) -> None:
    old: Any = head(net)
    features = (old if isinstance(old, nn.Linear) else old[-1]).in_features
    if wanted.pool == "avg+max":
        net.avgpool = _MeanAndMax()
        features *= 2
    if not wanted.plain:
        setattr(net, _head_name(net), _layers(features, wanted, classes))
    elif isinstance(old, nn.Linear):
        net.fc = nn.Linear(features, classes)
    else:
        old[-1] = nn.Linear(features, classes)


def _layers(features: int, wanted: Head, classes: int) -> nn.Sequential:
    outputs = [*wanted.widths, classes]
    layers: list[nn.Module] = []
    for i, width in enumerate(outputs):
        if wanted.batch_norm:
            layers.append(nn.BatchNorm1d(features))
        if wanted.dropouts:
            layers.append(nn.Dropout(wanted.dropouts[i]))
        layers.append(nn.Linear(features, width))
        if wanted.activation == "relu" and i < len(outputs) - 1:
            layers.append(nn.ReLU(inplace=True))
        features = width
    return nn.Sequential(*layers)


def _load_backbone(net: nn.Module, name: str, weights: str) -> None:
    file = paths.given(weights)
    if file.suffix in (".safetensors", ".pth", ".pt"):
        state = _read_weights_file(file)
    else:
        state = _download(name, weights)
    prefix = f"{_head_name(net)}."
    state = {k: v for k, v in state.items() if not k.startswith(prefix)}
    wanted = {k: v for k, v in net.state_dict().items() if not k.startswith(prefix)}
    wrong = [k for k in wanted if k not in state or state[k].shape != wanted[k].shape]
    wrong += [k for k in state if k not in wanted]
    if wrong:
        raise UserError(
            f"params.yaml: weights: {weights} does not fit {name}: {len(wrong)} tensors differ, "
            f"such as {wrong[0]}; give weights of the same architecture"
        )
    net.load_state_dict(state, strict=False)


def _read_weights_file(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"params.yaml: weights: {file} is not a file") from None
    except Exception as error:  # torch raises a dozen kinds for a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"params.yaml: weights: {file} cannot be read ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"params.yaml: weights: {file} is not a state_dict of tensors")
    return state


def _download(name: str, weights: str) -> dict[str, Tensor]:
    known = torchvision.models.get_model_weights(name)
    if weights not in known.__members__:
        raise UserError(
            f"params.yaml: weights: {name} has no '{weights}'; allowed: none, "
            f"{', '.join(known.__members__)}, or a .safetensors or .pth file"
        )
    try:
        return known[weights].get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        where = Path(torch.hub.get_dir()) / "checkpoints" / known[weights].url.rsplit("/", 1)[-1]
        raise UserError(
            f"params.yaml: weights: {weights} of {name} cannot be fetched ({error}).\n"
            f"Mend the network, put the file from {known[weights].url} at {where}, or set weights: none"
        ) from None


def blocks(net: Any) -> list[tuple[int, list[nn.Parameter]]]:
    """The parameters from the stem to the head, block by block, each with its layer group.

    Groups: 0 stem and early blocks, 1 late blocks, 2 head. ResNets are cut between layer2 and layer3,
    EfficientNets in the middle of ``features``.
    """
    if hasattr(net, "features"):
        bodies, late = [[block] for block in net.features], len(net.features) // 2
    else:
        stem = [net.conv1, net.bn1]
        bodies, late = [stem, [net.layer1], [net.layer2], [net.layer3], [net.layer4]], 3
    rows = [
        (int(i >= late), [parameter for module in body for parameter in module.parameters()])
        for i, body in enumerate(bodies)
    ]
    return [*rows, (2, list(head(net).parameters()))]


def set_part(net: nn.Module, part: str) -> None:
    """Choose what trains: ``head``, ``head+norm`` or ``all``; the rest needs no gradient."""
    net.requires_grad_(part == "all")
    head(net).requires_grad_(True)
    if part == "head+norm":
        for module in _norms(net):
            module.requires_grad_(True)


def train_mode(net: nn.Module, part: str, frozen_statistics: bool) -> None:
    """Training mode; with ``frozen_statistics`` the norm layers outside the head keep theirs.

    A body that neither trains nor gathers statistics is a fixed function: no dropout, no stochastic depth.
    """
    net.train(not (part == "head" and frozen_statistics))
    head(net).train()
    if frozen_statistics:
        own = set(head(net).modules())
        for module in _norms(net):
            module.train(module in own)


def _norms(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def bytes_of(net: nn.Module) -> int:
    """Of a weights file."""
    return sum(value.numel() * value.element_size() for value in net.state_dict().values())


def save(weights: Path, sidecar: Path, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write weights as safetensors, and beside them what is needed to use them, with the weights' sha256."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    plain = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    record.write_bytes(weights, safetensors.torch.save(plain))
    record.write_json(sidecar, {"format": FORMAT, "sha256": record.sha256(weights), **facts})


class _Recipe(BaseModel):
    head: Head


class _Sidecar(BaseModel):
    """What of a sidecar is used: it may come from anywhere."""

    model_config = ConfigDict(strict=True)
    sha256: Sha256
    model: ModelName
    classes: Annotated[list[str], Field(min_length=2)]
    side_pixels: Side
    pack_side_pixels: Side
    mean: Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]
    std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)]
    refit: bool
    temperature: PositiveFloat
    unknown_below: Annotated[float, Field(ge=0, le=1)]
    recipe: _Recipe


def load(weights: Path, sidecar: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model and its sidecar.

    Raises:
        UserError: a file is missing, changed since it was written, of another format, or they do not fit.
    """
    facts = record.read_json(sidecar)
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
    if record.sha256(weights) != wanted.sha256:
        raise UserError(
            f"{weights}: differs from the sha256 in {sidecar.name}: damaged; fetch or train it again"
        )
    net = build(wanted.model, len(wanted.classes), "none", wanted.recipe.head, seed=0)
    try:
        net.load_state_dict(safetensors.torch.load_file(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{weights}: does not fit {sidecar.name} ({reason}); train the model again") from None
    return net, facts
