"""Batches of the splits that stage pack wrote, on a device."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finegrain.augmentation import crop, sampling, transform
from finegrain.config.base import ImageFit
from finegrain.config.training import AugmentParams, ChannelStatistics, Normalization
from finegrain.core import file_io
from finegrain.loading import prefetch
from finegrain.loading.pack_reader import PackReader
from finegrain.runtime import devices
from finegrain.runtime.distributed import SINGLE_PROCESS, World

ImageArray = NDArray[np.uint8]
"""A decoded RGB image ``[H, W, 3]``, or several of the same size, ``[N, H, W, 3]``; uint8."""
MeanStd = tuple[list[float], list[float]]
"""Mean and standard deviation of red, green and blue, of values in 0..1."""
IMAGENET_MEAN_STD: MeanStd = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and standard deviation that torchvision's pretrained weights expect."""


def normalization_mean_std(pack: Path, normalization: Normalization, expected: MeanStd | None) -> MeanStd:
    """Mean and standard deviation of red, green and blue, of values in 0..1, that a run normalizes with.

    Args:
        pack: the folder that stage pack wrote, with the statistics of the training images.
        normalization: the parameter of the same name.
        expected: what the initial weights expect, which ``auto`` means; None for random weights, with which
            it means the training images.
    """
    if isinstance(normalization, ChannelStatistics):
        return list(normalization.mean), list(normalization.std)
    if normalization == "imagenet":
        return IMAGENET_MEAN_STD
    if normalization == "auto" and expected:
        return expected
    metadata = file_io.read_json(pack / "pack.json")
    return metadata["mean"], metadata["std"]


def pack_fingerprint(metadata: Mapping[str, Any]) -> str:
    """Text that differs between packs with other images, another image size or another fit.

    It begins with the sha256 of the manifest. A pack without a fit, from before there was one, is squashed.

    Args:
        metadata: content of pack.json.
    """
    fit = metadata.get("fit", "squash")
    return f"{metadata['manifest_sha256']}-{metadata['image_size']}" + ("" if fit == "squash" else f"-{fit}")


class PackedSplit:
    """Images and labels of one or more splits; on a GPU, the images stay in its memory if they fit."""

    def __init__(
        self,
        pack: Path,
        names: str,
        device: torch.device,
        mean: list[float],
        std: list[float],
        world: World = SINGLE_PROCESS,
    ) -> None:
        """Open ``<pack>/<name>.npy``, ``[N, S, S, 3]`` uint8, and the labels.

        Args:
            names: such as ``train``, or ``train+val`` for the images of both.
            mean: mean of red, green and blue in 0..1, for the normalization.
            std: standard deviation, likewise.
            world: the processes that divide each training batch, and the evaluation batches, among them.
        """
        self.world = world
        metadata = file_io.read_json(pack / "pack.json")
        self.device = device
        self.class_names: list[str] = metadata["classes"]
        self.image_size: int = metadata["image_size"]
        self.fit: ImageFit = metadata.get("fit", "squash")
        self.fingerprint = pack_fingerprint(metadata)
        image_device = devices.image_device(device)
        self.normalization = transform.normalization_factors(mean, std, image_device)
        splits = names.split("+")
        self.labels = torch.cat([torch.from_numpy(np.load(pack / f"{name}_labels.npy")) for name in splits])
        self._batch_labels = self.labels.to(image_device)
        self._reader = PackReader([pack / f"{name}.npy" for name in splits])
        self._images_on_gpu: Tensor | None = None
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what torch caches of an earlier run counts as used
            free, _ = torch.cuda.mem_get_info(device)
            if len(self) * 3 * self.image_size**2 < free // 2:
                self._images_on_gpu = prefetch.load_all(self._reader, device)

    def __len__(self) -> int:
        return len(self.labels)

    def release(self) -> None:
        """Free the GPU memory of the images; later batches are streamed from the disk."""
        self._images_on_gpu = None

    def images(self, indices: Tensor) -> ImageArray:
        """The images ``[n]`` as they were packed, ``[n, S, S, 3]``, for people to look at."""
        size = self.image_size
        images = np.empty((len(indices), size, size, 3), np.uint8)
        self._reader.read(indices, crop.full_boxes(len(indices), size, size), images)
        return images

    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of training steps in an epoch.

        A last batch too small for batch norm, which needs two images in each process, is left out.
        """
        full, rest = divmod(len(self), batch_size)
        return full + (rest >= 2 * self.world.size)

    def train_batches(
        self,
        epoch: int | str,
        batch_size: int,
        image_size: int,
        config: AugmentParams,
        seed: int,
        first_step: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented, normalized batches: the same (seed, epoch) always gives the same ones.

        Args:
            first_step: start at this step of the epoch, where an interrupted run resumes.

        Yields:
            Images ``[N, 3, image_size, image_size]`` float32 channels_last and labels ``[N]`` int64, on the
            device.
        """
        order = torch.randperm(len(self), generator=sampling.make_generator(seed, "order", epoch))
        steps = order.split(batch_size)[first_step : self.steps_per_epoch(batch_size)]
        size, world = self.image_size, self.world

        def requests() -> Iterator[prefetch.BatchRequest]:
            for step, indices in enumerate(steps, first_step):
                n = len(indices) // world.size * world.size
                # sampled for the whole batch: an image's augmentation does not depend on the processes
                augmentation = sampling.sample_augmentation(
                    n, size, size, image_size, config, (seed, epoch, step)
                )
                yield prefetch.BatchRequest(world.shard(indices[:n]), augmentation.map(world.shard))

        yield from self._batches(requests(), image_size)

    def eval_batches(self, batch_size: int, image_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image of this process's shard once, in order, whole; yields what ``train_batches`` does."""
        yield from self.batches_of(
            torch.arange(len(self))[self.world.shard_slice(len(self))], batch_size, image_size
        )

    def batches_of(
        self, indices: Tensor, batch_size: int, image_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The images ``indices``, ``[n]``, whole, in this order; yields what ``train_batches`` does."""
        size = self.image_size
        requests = (
            prefetch.BatchRequest(each, sampling.identity(len(each), size, size))
            for each in indices.split(batch_size)
        )
        yield from self._batches(requests, image_size)

    def _batches(
        self, requests: Iterable[prefetch.BatchRequest], image_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        apply = partial(transform.transform_images, image_size=image_size, normalization=self.normalization)
        if self._images_on_gpu is not None:
            batches = prefetch.index_on_gpu(self._images_on_gpu, requests, apply)
        elif self.device.type == "cuda":
            batches = prefetch.stream_to_gpu(self._reader, requests, self.device, apply)
        else:
            batches = prefetch.read_on_cpu(self._reader, requests, apply)
        for images, indices in batches:
            yield devices.place(images, self.device), self._batch_labels[indices].to(self.device)
