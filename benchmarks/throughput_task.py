"""What every way of throughput_way.py gets. Does not import torch: our ways set the allocator first."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Epoch = Callable[[int], int]
"""Function that trains one epoch, given its number from 1 on, and returns the number of its images."""


@dataclass(frozen=True)
class Task:
    """What to train and how. Our ways read a pack and params.yaml in the current folder instead."""

    photos: Path
    """Folder with JPEGs in train/<class>/ and val/<class>/."""
    model: str
    """Name in torchvision.models."""
    image_size: int
    batch_size: int
    workers: int
    """Number of loader processes, if the way does not set it."""

    @property
    def classes(self) -> int:
        return sum(1 for _ in (self.photos / "train").iterdir())


class FirstStep:
    """Optimizer hook, called after each step, that records when the first optimization step ended."""

    def __init__(self, spawned: float) -> None:
        self._spawned = spawned
        self.seconds: float | None = None

    def __call__(self, *_: Any) -> None:
        if self.seconds is None:
            synchronize()
            self.seconds = time.monotonic() - self._spawned


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> Any:
    """The first GPU, or the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def auto_precision(on: Any) -> str:
    """What ``precision: auto`` means on the device: bf16, fp16 or fp32."""
    from finegrain.runtime import devices

    dtype = devices.autocast_dtype("auto", on)
    return next(name for name, value in devices.DTYPES.items() if value == dtype)
