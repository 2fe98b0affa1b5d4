"""torchvision's classifiers by name: build, head, layer groups, freeze, save, load."""

import urllib.error
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from finegrain.config.training import HeadParams
from finegrain.core import paths
from finegrain.core.errors import UserError


def build_model(name: str, classes: int, weights: str, head: HeadParams, seed: int) -> nn.Module:
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


def is_pretrained(weights: str) -> bool:
    """Whether the weights expect ImageNet's normalisation."""
    return weights != "none"


def get_head(net: nn.Module) -> nn.Module:
    """All that follows the pooling: a linear layer, or several."""
    return getattr(net, _head_name(net))


def _head_name(net: nn.Module) -> str:
    return "fc" if hasattr(net, "fc") else "classifier"


class _AvgMaxPool(nn.Module):
    """The mean and the maximum of each feature map, ``[N, C, H, W]`` to ``[N, 2C, 1, 1]``."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat((features.amax((2, 3), keepdim=True), features.mean((2, 3), keepdim=True)), 1)


def _replace_head(net: Any, wanted: HeadParams, classes: int) -> None:
    old: Any = get_head(net)
    features = (old if isinstance(old, nn.Linear) else old[-1]).in_features
    if wanted.pool == "avg+max":
        net.avgpool = _AvgMaxPool()
        features *= 2
    if not wanted.plain:
        setattr(net, _head_name(net), _head_layers(features, wanted, classes))
    elif isinstance(old, nn.Linear):
        net.fc = nn.Linear(features, classes)
    else:
        old[-1] = nn.Linear(features, classes)


def _head_layers(features: int, wanted: HeadParams, classes: int) -> nn.Sequential:
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
    file = paths.user_path(weights)
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


def count_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def weights_bytes(net: nn.Module) -> int:
    """Of a weights file."""
    return sum(value.numel() * value.element_size() for value in net.state_dict().values())
