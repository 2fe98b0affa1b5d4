"""Logits of images, for validation, evaluation and prediction."""

from typing import Any

import torch
from torch import Tensor, nn

from finegrain.augmentation import sampling, transform
from finegrain.core import log
from finegrain.core.errors import UserError
from finegrain.loading.batches import PackedSplit
from finegrain.models import build
from finegrain.runtime import devices

BATCH_SIZE = 64
"""Images in a batch; without gradients more fit in memory than in a training step."""


class Preprocessor:
    """Resize and normalize whole decoded images, as validation and evaluation do."""

    def __init__(self, image_size: int, device: torch.device, mean: list[float], std: list[float]) -> None:
        """Prepare the normalization.

        Args:
            image_size: height and width of the network's input in pixels.
            mean: mean of red, green and blue in 0..1.
            std: standard deviation, likewise.
        """
        self._image_size, self._device, self._on = image_size, device, devices.image_device(device)
        self._mean_std = transform.normalization_factors(mean, std, self._on)

    def __call__(self, images: Tensor) -> Tensor:
        """Convert ``[n, S, S, 3]`` uint8 on the CPU to ``[n, 3, size, size]`` float32 on the device."""
        n, height, width, _ = images.shape
        identity = sampling.identity(n, height, width).to(self._on)
        prepared = transform.transform_images(
            images.to(self._on), None, identity, self._image_size, self._mean_std
        )
        return devices.place(prepared, self._device)


@torch.inference_mode()
def predict_split(
    net: nn.Module,
    split: PackedSplit,
    image_size: int,
    dtype: torch.dtype,
    flip: bool = False,
    label: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> tuple[Tensor, Tensor]:
    """Logits ``[N, classes]`` float32 and labels ``[N]`` of a whole split, on the CPU, in the split's order.

    Args:
        dtype: what the network is autocast to, here and below; float32 means no autocast.
        flip: average the logits of each image and of its horizontal flip.
        label: text before the progress bar; None means no progress bar.
    """
    net.eval()
    batches = split.eval_batches(batch_size, image_size)
    if label:
        batches = log.progress_bar(batches, total=-(-len(split) // batch_size), label=label, unit="batch")
    logits = [predict_logits(net, images, dtype, flip) for images, _ in batches]
    return split.world.gather(logits), split.labels


@torch.inference_mode()
def predict_logits(net: nn.Module, images: Tensor, dtype: torch.dtype, flip: bool = False) -> Tensor:
    """Logits ``[n, classes]`` float32 of preprocessed images ``[n, 3, H, W]``, on their device.

    Args:
        flip: average the logits of each image and of its horizontal flip.

    Raises:
        UserError: out of memory.
    """
    request = f"image_size: {len(images)} images of {images.shape[-1]} px without gradients"
    with (
        devices.explain_errors(request, "use smaller images or device: cpu"),
        devices.autocast(images.device, dtype),
    ):
        logits: Tensor = net(images).float()
        return (logits + net(images.flip(3)).float()) / 2 if flip else logits


def require_no_overflow(values: Tensor, dtype: torch.dtype) -> None:
    """Check what a network autocast to ``dtype`` gave.

    Raises:
        UserError: values are not finite, and float16, whose largest number is 65,504, may be why.
    """
    if dtype == torch.float16 and not values.isfinite().all():
        raise UserError("params.yaml: precision: fp16: the network's values overflow; use fp32")


@torch.no_grad()
def pooled_maps(net: Any, images: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Inputs of the pooling layer, of preprocessed images ``[n, 3, H, W]``.

    Returns:
        ``[n, C, h, w]`` of each pooled stage.
    """
    inputs: list[Tensor] = []
    hook = net.avgpool.register_forward_pre_hook(lambda _, maps: inputs.extend(maps))
    try:
        with devices.autocast(images.device, dtype):
            net(images)
    finally:
        hook.remove()
    return [maps.detach() for maps in inputs]


@torch.inference_mode()
def last_layer_inputs(net: nn.Module, images: Tensor, dtype: torch.dtype, flip: bool = False) -> Tensor:
    """Input ``[n, features]`` float32 of the last linear layer, of preprocessed images ``[n, 3, H, W]``.

    Args:
        flip: the mean over the image and its horizontal flip.

    Raises:
        UserError: out of memory.
    """
    inputs: list[Tensor] = []
    hook = build.get_last_layer(net).register_forward_pre_hook(lambda _, args: inputs.append(args[0].float()))
    try:
        for view in (images, images.flip(3)) if flip else (images,):
            predict_logits(net, view, dtype)
    finally:
        hook.remove()
    return torch.stack(inputs).mean(0) if flip else inputs[0]
