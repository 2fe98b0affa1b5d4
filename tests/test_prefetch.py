"""Images reach the device as they were packed, in each of the three ways.

CI has no GPU: stand-ins for streams and events make each copy late, as it may be on a GPU.
"""

import contextlib
import threading

import numpy as np
import pytest
import torch

from finegrain.augmentation import crop, sampling
from finegrain.loading import prefetch
from finegrain.loading.pack_reader import PackReader

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def reader(tmp_path) -> PackReader:
    np.save(tmp_path / "train.npy", IMAGES)
    return PackReader([tmp_path / "train.npy"])


def requests() -> list[prefetch.BatchRequest]:
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0)).split(3)
    return [prefetch.BatchRequest(each, sampling.identity(len(each), 8, 8)) for each in order]


def select(
    images: torch.Tensor, indices: torch.Tensor | None, augmentation: sampling.SampledAugmentation
) -> torch.Tensor:
    """A transform that changes the layout alone."""
    crops, flips = augmentation.crops, augmentation.flips
    assert torch.equal(crops, crop.full_boxes(len(crops), 8, 8)) and not flips.any()
    return (images if indices is None else images[indices]).permute(0, 3, 1, 2)


def test_read_on_cpu(reader):
    batches = prefetch.read_on_cpu(reader, requests(), select)
    for (images, indices), request in zip(batches, requests(), strict=True):
        assert np.array_equal(images.permute(0, 2, 3, 1), IMAGES[indices])
        assert torch.equal(indices, request.indices)


def test_load_all_and_index(reader, monkeypatch):
    monkeypatch.setattr(prefetch, "LOAD_CHUNK", 4)
    loaded = prefetch.load_all(reader, CPU)
    assert np.array_equal(loaded, IMAGES)
    for images, indices in prefetch.index_on_gpu(loaded, requests(), select):
        assert np.array_equal(images.permute(0, 2, 3, 1), IMAGES[indices])


class Event:
    """A copy to the device is made when the event is waited for, not before."""

    def __init__(self) -> None:
        self.copy = lambda: None
        self.thread = None

    def record(self, stream) -> None:
        self.copy, stream.pending = stream.pending, lambda: None

    def synchronize(self) -> None:
        self.copy()
        self.copy = lambda: None


class Stream:
    def __init__(self, device) -> None:
        self.pending = lambda: None

    def wait_event(self, event: Event) -> None:
        event.synchronize()


class LatePinned(torch.Tensor):
    """Pinned memory whose copies read it only when their event is waited for."""

    current: list[Stream] = []

    def to(self, device, non_blocking):
        assert non_blocking
        copy, source = torch.zeros(self.shape, dtype=self.dtype), self.as_subclass(torch.Tensor)
        LatePinned.current[-1].pending = lambda: copy.copy_(source)
        copy.record_stream = lambda stream: None
        return copy


def test_stream_to_gpu_uses_two_buffers_and_waits_for_late_copies(reader, monkeypatch):
    threads, pinned = set(), []
    real_empty, real_read = torch.empty, PackReader.read

    def empty(shape, dtype, pin_memory):
        assert pin_memory
        pinned.append(real_empty(shape, dtype=dtype).as_subclass(LatePinned))
        return pinned[-1]

    def read(self, *args):
        threads.add(threading.get_ident())
        real_read(self, *args)

    @contextlib.contextmanager
    def use(stream):
        LatePinned.current.append(stream)
        yield
        LatePinned.current.pop()

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(PackReader, "read", read)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", use)
    received = []
    for images, indices in prefetch.stream_to_gpu(reader, requests(), CPU, select):
        assert np.array_equal(images.permute(0, 2, 3, 1), IMAGES[indices])
        received += indices.tolist()
    assert sorted(received) == list(range(11))
    assert len(pinned) == 2 and threads and threading.get_ident() not in threads
