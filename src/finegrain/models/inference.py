"""Logits of images, for validation, evaluation and prediction."""

import torch
from torch import Tensor, nn

from finegrain.augmentation import sampling, transform
from finegrain.core import log
from finegrain.loading.batches import PackedSplit
from finegrain.runtime import devices


class Preprocessor:
    """Decoded squares as a trained network is asked about them: whole, resized, normalised."""

    def __init__(self, side: int, device: torch.device, mean: list[float], std: list[float]) -> None:
        self._side, self._device = side, device
        self._normal = transform.normalization_factors(mean, std, device)

    def __call__(self, squares: Tensor) -> Tensor:
        """``[n, S, S, 3]`` uint8 on the CPU to ``[n, 3, side, side]`` float32 on the device."""
        n, height, width, _ = squares.shape
        views = sampling.identity(n, height, width).to(self._device)
        return transform.transform_images(squares.to(self._device), None, views, self._side, 0, self._normal)


BATCH_SIZE = 64
"""Images that ``predict`` takes at a time: without gradients more fit than in a training step."""


@torch.inference_mode()
def predict_split(
    net: nn.Module,
    split: PackedSplit,
    side: int,
    bf16: bool,
    flip: bool = False,
    label: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> tuple[Tensor, Tensor]:
    """Logits ``[N, classes]`` float32 and labels ``[N]`` of a whole split, on the CPU, in its order.

    Args:
        flip: average the logits of each image and of its mirror image.
        label: of a progress bar; None: no bar.
    """
    net.eval()
    outputs = []
    batches = split.plain_batches(batch_size, side)
    if label:
        batches = log.progress_bar(batches, total=-(-len(split) // batch_size), label=label, unit="batch")
    for images, _ in batches:
        logits = predict_logits(net, images, bf16, flip)
        outputs.append(logits)
    return split.world.gather(outputs), split.labels


@torch.inference_mode()
def predict_logits(net: nn.Module, images: Tensor, bf16: bool, flip: bool = False) -> Tensor:
    """Logits ``[n, classes]`` float32 of images ``[n, 3, side, side]``, on their device; as for ``predict``.

    Raises:
        UserError: out of memory.
    """
    autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=bf16)
    asked = f"image_size: {images.shape[-1]}: {len(images)} images without gradients"
    with devices.explain_errors(asked, "ask for smaller ones, or device: cpu"), autocast:
        logits: Tensor = net(images).float()
        return (logits + net(images.flip(3)).float()) / 2 if flip else logits
