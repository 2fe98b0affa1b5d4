"""Bring packed pixels to the device, batch by batch: three ways, one for each place where they may live."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finegrain.augmentation import crop, sampling
from finegrain.core import parallel
from finegrain.loading.pack_reader import PackReader
from finegrain.runtime import devices

BatchRequest = tuple[Tensor, sampling.SampledAugmentation]
"""Indices ``[n]`` of a batch's images, and how each is to be seen."""
Transform = Callable[[Tensor, Tensor | None, sampling.SampledAugmentation], Tensor]
"""Images ``[m, H, W, 3]`` uint8, indices of those to see (None: all) and their views: to a batch."""
Batch = tuple[Tensor, Tensor]
"""What ``See`` gave, and the indices ``[n]``; on the device."""

LOAD_CHUNK = 256
READER_THREADS = 8


def read_on_cpu(pixels: PackReader, batches: Iterable[BatchRequest], see: Transform) -> Iterator[Batch]:
    """Read into one buffer and crop out of it."""
    buffer = np.empty(0, np.uint8)
    for chosen, views in batches:
        if len(buffer) < len(chosen):
            buffer = np.empty((len(chosen), pixels.side, pixels.side, 3), np.uint8)
        pixels.read(chosen, views.crops, buffer)
        yield see(torch.from_numpy(buffer[: len(chosen)]), None, views), chosen


def load_all(pixels: PackReader, device: torch.device) -> Tensor:
    """All images on the device, ``[N, H, W, 3]`` uint8, with a buffer of a few on the host."""
    size = pixels.side
    everything = torch.empty((len(pixels), size, size, 3), dtype=torch.uint8, device=device)
    buffer = np.empty((min(LOAD_CHUNK, len(pixels)), size, size, 3), np.uint8)
    for chosen in torch.arange(len(pixels)).split(LOAD_CHUNK):
        pixels.read(chosen, crop.full_boxes(len(chosen), size, size), buffer)
        everything[chosen[0] : chosen[-1] + 1] = torch.from_numpy(buffer[: len(chosen)]).to(device)
    return everything


def index_on_gpu(everything: Tensor, batches: Iterable[BatchRequest], see: Transform) -> Iterator[Batch]:
    """Pick from what ``load`` returned."""
    for chosen, views in batches:
        there = devices.copy_to_device(chosen, everything.device)
        yield see(everything, there, views.to(everything.device)), there


def stream_to_gpu(
    pixels: PackReader, batches: Iterable[BatchRequest], device: torch.device, see: Transform
) -> Iterator[Batch]:
    """Read the next batch in threads and copy it on a stream of its own while the GPU works on this one.

    Two pinned buffers: one is read into while the other is copied from. A cold disk gives several readers
    three times what it gives one (benchmarks/scaling.py).
    """
    readers = ThreadPoolExecutor(READER_THREADS)
    stream = torch.cuda.Stream(device)
    buffers: list[tuple[Tensor, Any]] = []

    def fetch(item: tuple[int, BatchRequest]) -> tuple[Tensor, Any, BatchRequest]:
        number, (chosen, views) = item
        if len(buffers) < 2:  # the first batches are the largest
            shape = (len(chosen), pixels.side, pixels.side, 3)
            buffers.append((torch.empty(shape, dtype=torch.uint8, pin_memory=True), torch.cuda.Event()))
        pinned, copied = buffers[number % 2]
        copied.synchronize()  # what this buffer held before has left
        out = pinned.numpy()
        parts = [slice(start, len(chosen), READER_THREADS) for start in range(READER_THREADS)]
        list(readers.map(lambda part: pixels.read(chosen[part], views.crops[part], out[part]), parts))
        with torch.cuda.stream(stream):
            images = pinned[: len(chosen)].to(device, non_blocking=True)
            copied.record(stream)
        return images, copied, (chosen, views)

    with readers:
        for images, copied, (chosen, views) in parallel.map_in_order(
            fetch, enumerate(batches), threads=1, ahead=2
        ):
            current = torch.cuda.current_stream(device)
            current.wait_event(copied)
            images.record_stream(current)  # its memory is not the other stream's to reuse before we are done
            yield see(images, None, views.to(device)), devices.copy_to_device(chosen, device)
