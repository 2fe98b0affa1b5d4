"""Open the arrays that stage pack wrote and give batches on a device."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finegrain import augment, record
from finegrain.params import Augment

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and deviation that torchvision's pretrained weights expect."""


class Split:
    """The images of train, val or test as one array, resident on the GPU if it fits, else memory-mapped."""

    def __init__(self, folder: Path, name: str, device: torch.device, pretrained: bool) -> None:
        """Open ``folder/<name>.npy`` ([N, H, W, 3] uint8) and its labels.

        Args:
            pretrained: normalise as torchvision's weights expect; else by the train split's own statistics.
        """
        facts = record.read_json(folder / "pack.json")
        self.name = name
        self.device = device
        self.class_names: list[str] = facts["classes"]
        self.side_pixels: int = facts["side_pixels"]
        self.fingerprint = f"{facts['manifest_sha256']}-{self.side_pixels}"
        self.mean: list[float]
        self.std: list[float]
        self.mean, self.std = IMAGENET if pretrained else (facts["mean"], facts["std"])
        self.labels = torch.from_numpy(np.load(folder / f"{name}_labels.npy"))
        # "c" maps copy on write: torch wants memory it could write to, the file stays as it is
        self.images = torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c"))
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.images.numel() < free // 2:
                self.images = self.images.to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def steps(self, batch_size: int) -> int:
        """Training steps of an epoch; a last batch of one image is left out: batch norm needs two."""
        full, rest = divmod(len(self), batch_size)
        return full + (rest > 1)

    def train_batches(
        self, epoch: int, batch_size: int, side: int, augmentation: Augment, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented, normalised: the same (seed, epoch) always gives the same batches.

        Yields:
            Images ``[N, 3, side, side]`` float32 channels_last and class ids ``[N]`` int64, on the device.
        """
        order = torch.randperm(len(self), generator=augment.generator(seed, "order", epoch))
        height, width = self.images.shape[1:3]
        for step, chosen in enumerate(order.split(batch_size)[: self.steps(batch_size)]):
            source = augment.generator(seed, "view", epoch, step)
            scale, ratio = augmentation.crop_scale, augmentation.crop_ratio
            crops = augment.draw_crops(len(chosen), height, width, scale, ratio, source)
            flips = augment.draw_flips(len(chosen), source) & augmentation.flip
            yield self._batch(chosen, crops, flips, side)

    def plain_batches(self, batch_size: int, side: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, whole; yields as ``train_batches``."""
        height, width = self.images.shape[1:3]
        for chosen in torch.arange(len(self)).split(batch_size):
            crops = augment.whole(len(chosen), height, width)
            yield self._batch(chosen, crops, torch.zeros(len(chosen), dtype=torch.bool), side)

    def _batch(self, chosen: Tensor, crops: Tensor, flips: Tensor, side: int) -> tuple[Tensor, Tensor]:
        labels = self.labels[chosen]
        if self.device.type == "cpu":
            images = augment.crop_one_by_one(self.images[chosen], crops, flips, side)
        else:
            picked = self.images[chosen.to(self.images.device)]
            images = augment.crop_by_matrices(picked.to(self.device), crops, flips, side)
        normal = augment.normalise(images, self.mean, self.std)
        return normal.contiguous(memory_format=torch.channels_last), labels.to(self.device)
