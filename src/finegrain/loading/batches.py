"""Open the arrays that stage pack wrote and give batches on a device."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finegrain.augmentation import crop, sampling, transform
from finegrain.config.training import AugmentParams, ChannelStatistics, Normalization
from finegrain.core import file_io
from finegrain.loading import prefetch
from finegrain.loading.pack_reader import PackReader
from finegrain.runtime.distributed import SINGLE_PROCESS, World

ImageArray = NDArray[np.uint8]
IMAGENET_MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and deviation that torchvision's pretrained weights expect."""


def normalization_mean_std(
    folder: Path, wanted: Normalization, pretrained: bool
) -> tuple[list[float], list[float]]:
    """Mean and deviation of red, green and blue, of values in 0..1, by which images are normalised."""
    if isinstance(wanted, ChannelStatistics):
        return list(wanted.mean), list(wanted.std)
    if wanted == "imagenet" or (wanted == "auto" and pretrained):
        return IMAGENET_MEAN_STD
    facts = file_io.read_json(folder / "pack.json")
    return facts["mean"], facts["std"]


class PackedSplit:
    """The images of some splits: resident on the GPU if they fit, else read batch by batch."""

    def __init__(
        self,
        folder: Path,
        names: str,
        device: torch.device,
        mean: list[float],
        std: list[float],
        world: World = SINGLE_PROCESS,
    ) -> None:
        """Open ``folder/<name>.npy`` ([N, H, W, 3] uint8) and its labels.

        Args:
            names: such as ``train``, or ``train+val`` for the images of both.
            mean: of red, green and blue, of values in 0..1, for the normalisation; ``std`` alike.
            world: the processes among which each batch, and all of ``plain_batches``, is divided.
        """
        self.world = world
        facts = file_io.read_json(folder / "pack.json")
        self.device = device
        self.class_names: list[str] = facts["classes"]
        self.image_size: int = facts["image_size"]
        self.fingerprint = f"{facts['manifest_sha256']}-{self.image_size}"
        self._normal = transform.normalization_factors(mean, std, device)
        parts = names.split("+")
        self.labels = torch.cat([torch.from_numpy(np.load(folder / f"{n}_labels.npy")) for n in parts])
        self._labels_there = self.labels.to(device)
        self._pixels = PackReader([folder / f"{n}.npy" for n in parts])
        self._resident: Tensor | None = None
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what torch keeps of an earlier training counts as taken
            free, _ = torch.cuda.mem_get_info(device)
            if len(self) * 3 * self.image_size**2 < free // 2:
                self._resident = prefetch.load_all(self._pixels, device)

    def __len__(self) -> int:
        return len(self.labels)

    def release(self) -> None:
        """Free the GPU's memory that the images take; if still asked for, they come batch by batch."""
        self._resident = None

    def squares(self, chosen: Tensor) -> ImageArray:
        """The images ``[n]`` as they were packed, ``[n, S, S, 3]``: for people to look at."""
        size = self.image_size
        images = np.empty((len(chosen), size, size, 3), np.uint8)
        self._pixels.read(chosen, crop.full_boxes(len(chosen), size, size), images)
        return images

    def steps(self, batch_size: int) -> int:
        """Training steps of an epoch; a last batch that is too small for batch norm, which needs two images
        in each process, is left out."""
        full, rest = divmod(len(self), batch_size)
        return full + (rest >= 2 * self.world.size)

    def train_batches(
        self, epoch: int | str, batch_size: int, side: int, config: AugmentParams, seed: int, first: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented, normalised: the same (seed, epoch) always gives the same batches.

        Args:
            first: leave out so many batches, which an interrupted run has had.

        Yields:
            Images ``[N, 3, side, side]`` float32 channels_last and class ids ``[N]`` int64, on the device.
        """
        order = torch.randperm(len(self), generator=sampling.make_generator(seed, "order", epoch))
        chosen = order.split(batch_size)[first : self.steps(batch_size)]
        size, world = self.image_size, self.world

        def wanted() -> Iterator[prefetch.BatchRequest]:
            for step, each in enumerate(chosen, first):
                each = each[: len(each) // world.size * world.size]
                views = sampling.sample_augmentation(len(each), size, size, side, config, (seed, epoch, step))
                # drawn for the whole batch: an image is seen alike, however many processes there are
                yield world.shard(each), views.each(world.shard)

        yield from self._batches(wanted(), side, config.pad_crop_pixels)

    def plain_batches(self, batch_size: int, side: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image of this process's stretch once, in order, whole; yields as ``train_batches``."""
        chosen = torch.arange(len(self))[self.world.shard_slice(len(self))].split(batch_size)
        views = (sampling.identity(len(each), self.image_size, self.image_size) for each in chosen)
        yield from self._batches(zip(chosen, views, strict=True), side, 0)

    def _batches(
        self, wanted: Iterable[prefetch.BatchRequest], side: int, padding: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        see = partial(transform.transform_images, side=side, padding=padding, normal=self._normal)
        if self.device.type == "cpu":
            fed = prefetch.read_on_cpu(self._pixels, wanted, see)
        elif self._resident is not None:
            fed = prefetch.index_on_gpu(self._resident, wanted, see)
        else:
            fed = prefetch.stream_to_gpu(self._pixels, wanted, self.device, see)
        for images, chosen in fed:
            yield images, self._labels_there[chosen]
