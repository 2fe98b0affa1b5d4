"""Blend the images and labels of a batch: each with the one before it, the first with the last."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from finegrain.recipe import Augment

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images ``[N, 3, H, W]`` and class ids ``[N]`` to blended images and probabilities ``[N, classes]``."""


def mixer(config: Augment, classes: int) -> Mix | None:
    """MixUp, CutMix, or for each batch one of the two; None if both are off.

    They draw from torch's global generator, which the training loop seeds at every step.
    """
    kinds = ((MixUp, config.mixup_alpha), (CutMix, config.cutmix_alpha))
    mixes: list[Mix] = [kind(_beta(alpha), classes) for kind, alpha in kinds if alpha]
    if len(mixes) < 2:
        return mixes[0] if mixes else None
    return lambda images, labels: mixes[int(torch.rand(()) < 0.5)](images, labels)


def _beta(alpha: float) -> torch.distributions.Beta:
    """Of the share that an image keeps; on the CPU, so that no step waits for a GPU."""
    return torch.distributions.Beta(torch.tensor(alpha), torch.tensor(alpha))


@dataclass(frozen=True)
class MixUp:
    """https://arxiv.org/abs/1710.09412, with one share for the batch, as torchvision's."""

    shares: torch.distributions.Beta
    classes: int

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        share = self.shares.sample().item()
        return _blend(images, share), _blend(_probabilities(labels, self.classes), share)


@dataclass(frozen=True)
class CutMix:
    """https://arxiv.org/abs/1905.04899, with one box for the batch, as torchvision's."""

    shares: torch.distributions.Beta
    classes: int

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        height, width = images.shape[2:]
        half = 0.5 * (1 - self.shares.sample().item()) ** 0.5
        (left, right), (top, bottom) = (_stretch(size, half) for size in (width, height))
        mixed = images.clone()
        for here, there in _neighbours(mixed, images):
            here[..., top:bottom, left:right] = there[..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return mixed, _blend(_probabilities(labels, self.classes), share)


def _stretch(size: int, half: float) -> tuple[int, int]:
    """First and last place of one of ``2 * half * size`` pixels about a random one, cut off at the edges."""
    centre, reach = int(torch.randint(size, ())), int(half * size)
    return max(centre - reach, 0), min(centre + reach, size)


def _probabilities(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels, classes).float()


def _blend(values: Tensor, share: float) -> Tensor:
    """``share`` of each and the rest of the one before it, in one pass over the batch."""
    blended = torch.empty_like(values)
    own = (values[1:], values[:1])
    for (here, there), mine in zip(_neighbours(blended, values), own, strict=True):
        torch.lerp(there, mine, share, out=here)
    return blended


def _neighbours(target: Tensor, source: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Parts of the target, each with those of the source that stand one place before."""
    return [(target[1:], source[:-1]), (target[:1], source[-1:])]
