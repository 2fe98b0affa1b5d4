"""Bring batches of packed images to the device and transform them there.

On a CPU with ``read_on_cpu``. On a GPU whose memory holds all images, with ``load_all`` once and then
``index_on_gpu``; on any other GPU with ``stream_to_gpu``.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from finegrain.augmentation import crop
from finegrain.augmentation.sampling import SampledAugmentation
from finegrain.core import parallel
from finegrain.loading.pack_reader import PackReader
from finegrain.runtime import devices


class BatchRequest(NamedTuple):
    """The images of a batch, and the augmentation of each; on the CPU."""

    indices: Tensor
    """``[n]`` int64, into the images of the pack reader."""
    augmentation: SampledAugmentation


class Batch(NamedTuple):
    """The result of a request, on the device."""

    images: Tensor
    """``[n, 3, S, S]``: what the transform returned."""
    indices: Tensor
    """``[n]`` int64: indices of the request."""


Transform = Callable[[Tensor, Tensor | None, SampledAugmentation], Tensor]
"""From images ``[m, H, W, 3]`` uint8, the indices of those to use (None means all images) and what is done to
each of them, to the batch's images; all on the device."""

LOAD_CHUNK = 256
"""Images that ``load_all`` copies at a time."""
READER_THREADS = 8


def read_on_cpu(
    reader: PackReader, requests: Iterable[BatchRequest], transform: Transform
) -> Iterator[Batch]:
    """Read each batch into one buffer, and transform it from there."""
    buffer = np.empty(0, np.uint8)
    for indices, augmentation in requests:
        if len(buffer) < len(indices):
            buffer = np.empty((len(indices), reader.image_size, reader.image_size, 3), np.uint8)
        reader.read(indices, augmentation.crops, buffer)
        yield Batch(transform(torch.from_numpy(buffer[: len(indices)]), None, augmentation), indices)


def load_all(reader: PackReader, device: torch.device) -> Tensor:
    """All images on the device, ``[N, H, W, 3]`` uint8; the host holds ``LOAD_CHUNK`` of them at a time."""
    size = reader.image_size
    images = torch.empty((len(reader), size, size, 3), dtype=torch.uint8, device=device)
    buffer = np.empty((min(LOAD_CHUNK, len(reader)), size, size, 3), np.uint8)
    for indices in torch.arange(len(reader)).split(LOAD_CHUNK):
        reader.read(indices, crop.full_boxes(len(indices), size, size), buffer)
        images[indices[0] : indices[-1] + 1] = torch.from_numpy(buffer[: len(indices)]).to(device)
    return images


def index_on_gpu(images: Tensor, requests: Iterable[BatchRequest], transform: Transform) -> Iterator[Batch]:
    """Transform each batch from the images that ``load_all`` returned."""
    for request in requests:
        indices = devices.copy_to_device(request.indices, images.device)
        yield Batch(transform(images, indices, request.augmentation.to(images.device)), indices)


def stream_to_gpu(
    reader: PackReader, requests: Iterable[BatchRequest], device: torch.device, transform: Transform
) -> Iterator[Batch]:
    """Read the next batch in threads and copy it on its own CUDA stream while the GPU works on this one.

    Two pinned buffers: one is read into while the other is copied from. A cold disk gives several readers
    three times what it gives one (benchmarks/scaling.py).
    """
    threads = ThreadPoolExecutor(READER_THREADS)
    stream = torch.cuda.Stream(device)
    buffers: list[tuple[Tensor, Any]] = []

    def fetch(item: tuple[int, BatchRequest]) -> tuple[Tensor, Any, BatchRequest]:
        number, (indices, augmentation) = item
        if len(buffers) < 2:  # the first batches are the largest
            shape = (len(indices), reader.image_size, reader.image_size, 3)
            buffers.append((torch.empty(shape, dtype=torch.uint8, pin_memory=True), torch.cuda.Event()))
        pinned, copied = buffers[number % 2]
        copied.synchronize()  # the batch before last has been copied out of this buffer
        out = pinned.numpy()
        parts = [slice(start, len(indices), READER_THREADS) for start in range(READER_THREADS)]
        list(threads.map(lambda part: reader.read(indices[part], augmentation.crops[part], out[part]), parts))
        with torch.cuda.stream(stream):
            images = pinned[: len(indices)].to(device, non_blocking=True)
            copied.record(stream)
        return images, copied, item[1]

    with threads:
        fetched = parallel.map_in_order(fetch, enumerate(requests), threads=1, max_pending=2)
        for images, copied, (indices, augmentation) in fetched:
            current = torch.cuda.current_stream(device)
            current.wait_event(copied)
            images.record_stream(current)  # its memory is not the other stream's to reuse before we are done
            batch = transform(images, None, augmentation.to(device))
            yield Batch(batch, devices.copy_to_device(indices, device))
