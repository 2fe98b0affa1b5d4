"""What every way of benchmarks/ways.py is given. Imports no torch: our ways set the allocator first."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Epoch = Callable[[int], int]
"""Trains one epoch, told its number from 1 on; returns the number of images it trained on."""


@dataclass(frozen=True)
class Task:
    """What to train on. The ways of ours read a pack and params.yaml in the current folder instead."""

    photos: Path
    """Folder with train/<class>/ and val/<class>/ of JPEGs."""
    model: str
    """Of torchvision.models."""
    side: int
    batch_size: int
    workers: int
    """Processes that load, where the way leaves the choice."""

    @property
    def classes(self) -> int:
        return sum(1 for _ in (self.photos / "train").iterdir())


class FirstStep:
    """Notes when the first optimisation step has ended; an optimizer's hook, called after each one."""

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


def bf16(on: Any) -> bool:
    """Whether the hardware multiplies bfloat16 natively."""
    from finegrain.runtime import devices

    return devices.use_bf16("auto", on)
