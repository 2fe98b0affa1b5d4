"""Pixels arrive on the device as they were packed, whichever way they take.

CI has no GPU: streams and events are stand-ins there, by which copies come late, as they do on a GPU.
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
def pixels(tmp_path) -> PackReader:
    np.save(tmp_path / "train.npy", IMAGES)
    return PackReader([tmp_path / "train.npy"])


def wanted() -> list[prefetch.BatchRequest]:
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0)).split(3)
    return [(chosen, sampling.identity(len(chosen), 8, 8)) for chosen in order]


def see(
    source: torch.Tensor, chosen: torch.Tensor | None, views: sampling.SampledAugmentation
) -> torch.Tensor:
    """Whole images of the size they have."""
    assert torch.equal(views.crops, crop.full_boxes(len(views.crops), 8, 8)) and not views.flips.any()
    return (source if chosen is None else source[chosen]).permute(0, 3, 1, 2)


def test_on_the_cpu(pixels):
    fed = prefetch.read_on_cpu(pixels, wanted(), see)
    for (images, chosen), (expected, _) in zip(fed, wanted(), strict=True):
        assert np.array_equal(images.permute(0, 2, 3, 1), IMAGES[chosen]) and torch.equal(chosen, expected)


def test_resident(pixels, monkeypatch):
    monkeypatch.setattr(prefetch, "LOAD_CHUNK", 4)
    everything = prefetch.load_all(pixels, CPU)
    assert np.array_equal(everything, IMAGES)
    for images, chosen in prefetch.index_on_gpu(everything, wanted(), see):
        assert np.array_equal(images.permute(0, 2, 3, 1), IMAGES[chosen])


class Event:
    """A copy to the device is made when somebody waits for it, not before."""

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


class Late(torch.Tensor):
    """Pinned memory whose copies read it only when their event is waited for."""

    current: list[Stream] = []

    def to(self, device, non_blocking):
        assert non_blocking
        there, source = torch.zeros(self.shape, dtype=self.dtype), self.as_subclass(torch.Tensor)
        Late.current[-1].pending = lambda: there.copy_(source)
        there.record_stream = lambda stream: None
        return there


def test_streamed_in_two_buffers_while_copies_come_late(pixels, monkeypatch):
    readers, pinned = set(), []
    real_empty, real_read = torch.empty, PackReader.read

    def empty(shape, dtype, pin_memory):
        assert pin_memory
        pinned.append(real_empty(shape, dtype=dtype).as_subclass(Late))
        return pinned[-1]

    def read(self, *args):
        readers.add(threading.get_ident())
        real_read(self, *args)

    @contextlib.contextmanager
    def on(stream):
        Late.current.append(stream)
        yield
        Late.current.pop()

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(PackReader, "read", read)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    seen = []
    for images, chosen in prefetch.stream_to_gpu(pixels, wanted(), CPU, see):
        assert np.array_equal(images.permute(0, 2, 3, 1), IMAGES[chosen])
        seen += chosen.tolist()
    assert sorted(seen) == list(range(11))
    assert len(pinned) == 2 and readers and threading.get_ident() not in readers
