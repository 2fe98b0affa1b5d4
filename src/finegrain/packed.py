"""Open the arrays that stage pack wrote and give batches on a device."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finegrain import augment, crop, record
from finegrain.recipe import Augment, Normalisation, Statistics

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and deviation that torchvision's pretrained weights expect."""


def statistics(folder: Path, wanted: Normalisation, pretrained: bool) -> tuple[list[float], list[float]]:
    """Mean and deviation of red, green and blue, of values in 0..1, by which images are normalised."""
    if isinstance(wanted, Statistics):
        return list(wanted.mean), list(wanted.std)
    if wanted == "imagenet" or (wanted == "auto" and pretrained):
        return IMAGENET
    facts = record.read_json(folder / "pack.json")
    return facts["mean"], facts["std"]


class Split:
    """The images of some splits as arrays, resident on the GPU if they fit, else memory-mapped."""

    def __init__(
        self, folder: Path, names: str, device: torch.device, mean: list[float], std: list[float]
    ) -> None:
        """Open ``folder/<name>.npy`` ([N, H, W, 3] uint8) and its labels.

        Args:
            names: such as ``train``, or ``train+val`` for the images of both.
            mean: of red, green and blue, of values in 0..1, for the normalisation; ``std`` alike.
        """
        facts = record.read_json(folder / "pack.json")
        self.device = device
        self.class_names: list[str] = facts["classes"]
        self.side_pixels: int = facts["side_pixels"]
        self.fingerprint = f"{facts['manifest_sha256']}-{self.side_pixels}"
        self._normal = augment.normalisation(mean, std, device)
        parts = names.split("+")
        self.labels = torch.cat([torch.from_numpy(np.load(folder / f"{n}_labels.npy")) for n in parts])
        # "c" maps copy on write: torch wants memory it could write to, the file stays as it is
        self._arrays = [torch.from_numpy(np.load(folder / f"{n}.npy", mmap_mode="c")) for n in parts]
        self._resident: Tensor | None = None
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if sum(array.numel() for array in self._arrays) < free // 2:
                self._resident = torch.cat([array.to(device) for array in self._arrays])

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        """One image, ``[H, W, 3]`` uint8: a view into the mapped file."""
        for array in self._arrays:
            if index < len(array):
                return array[index]
            index -= len(array)
        raise IndexError(index)

    def steps(self, batch_size: int) -> int:
        """Training steps of an epoch; a last batch of one image is left out: batch norm needs two."""
        full, rest = divmod(len(self), batch_size)
        return full + (rest > 1)

    def train_batches(
        self, epoch: int | str, batch_size: int, side: int, config: Augment, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented, normalised: the same (seed, epoch) always gives the same batches.

        Yields:
            Images ``[N, 3, side, side]`` float32 channels_last and class ids ``[N]`` int64, on the device.
        """
        order = torch.randperm(len(self), generator=augment.generator(seed, "order", epoch))
        for step, chosen in enumerate(order.split(batch_size)[: self.steps(batch_size)]):
            n, key = len(chosen), (seed, epoch, step)
            views = augment.draw(n, self.side_pixels, self.side_pixels, side, config, key)
            yield self._batch(chosen, views, side, config.pad_crop_pixels)

    def plain_batches(self, batch_size: int, side: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, whole; yields as ``train_batches``."""
        for chosen in torch.arange(len(self)).split(batch_size):
            yield self._batch(chosen, augment.whole(len(chosen), self.side_pixels, self.side_pixels), side, 0)

    def _batch(self, chosen: Tensor, views: augment.Views, side: int, padding: int) -> tuple[Tensor, Tensor]:
        labels = self.labels[chosen].to(self.device)
        if self.device.type == "cpu":
            rows = [self.image(index) for index in chosen.tolist()]
            images = crop.crop_one_by_one(rows, views.crops, views.flips, side)
        else:
            if self._resident is not None:
                picked = self._resident[chosen.to(self.device)]
            else:
                picked = torch.stack([self.image(index) for index in chosen.tolist()]).to(self.device)
            images = crop.crop_by_matrices(picked, views.crops, views.flips, side)
        return augment.apply(images, views, padding, self._normal), labels
