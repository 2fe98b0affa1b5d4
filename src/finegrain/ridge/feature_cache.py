"""Features of images on disk, found again by the images' content.

An interrupted pass over the images continues where it stopped. Another strength, and added or removed photos,
need no new pass over the others, and give the same bits as a pass over all.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finegrain.core import paths

KEY_BYTES = 16
MAX_KEPT = 3
"""Caches that are kept: one for each network, image size and precision that was used last."""


class FeatureCache:
    """Features ``[N, width]`` float32 of images, of one network at one image size; a context manager.

    A second process that wants the same cache waits until this one leaves the context.
    """

    def __init__(self, key: dict[str, Any], width: int) -> None:
        """Choose the folder.

        Args:
            key: all that the features depend on besides the images.
            width: number of features of an image.
        """
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.folder = paths.checkpoints_folder() / "features" / digest[:16]
        self.width = width

    def __enter__(self) -> "FeatureCache":
        self._lock = self._acquire_lock()
        os.utime(self.folder)
        _remove_old(self.folder.parent)
        self._features = os.open(self.folder / "features.bin", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        self._keys = os.open(self.folder / "keys.bin", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        # a kill may leave half a row, or rows without their keys
        count = min(
            os.fstat(self._keys).st_size // KEY_BYTES, os.fstat(self._features).st_size // self._row_bytes
        )
        os.ftruncate(self._keys, count * KEY_BYTES)
        os.ftruncate(self._features, count * self._row_bytes)
        keys = os.pread(self._keys, count * KEY_BYTES, 0)
        self._rows = {keys[i * KEY_BYTES : (i + 1) * KEY_BYTES]: i for i in range(count)}
        return self

    def _acquire_lock(self) -> int:
        """Wait for the lock; returns its file descriptor."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process removes the folder as an old one
                lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if os.path.samestat(os.fstat(lock), os.stat(self.folder / "lock")):
                        return lock
                except BaseException:
                    os.close(lock)
                    raise
                os.close(lock)

    def __exit__(self, *_: object) -> None:
        for descriptor in (self._features, self._keys, self._lock):
            os.close(descriptor)

    @property
    def _row_bytes(self) -> int:
        return 4 * self.width

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def add(self, keys: list[bytes], features: Tensor) -> None:
        """Append features ``[n, width]`` float32; the keys are written last, so that a kill loses no more."""
        count = len(self._rows)
        _write_all(self._features, features.contiguous().numpy(), count * self._row_bytes)
        _write_all(self._keys, np.frombuffer(b"".join(keys), np.uint8), count * KEY_BYTES)
        self._rows.update({key: count + i for i, key in enumerate(keys)})

    def rows(self, keys: list[bytes]) -> "CachedRows":
        """The features of images that are in the cache, in this order, while the context lasts."""
        return CachedRows(self._features, self.width, np.array([self._rows[key] for key in keys]))


class CachedRows:
    """Features of some images of a cache, read from disk when they are used (``regression.Rows``)."""

    def __init__(self, descriptor: int, width: int, positions: NDArray[np.int64]) -> None:
        """Choose the rows ``positions``, ``[N]``, of the file."""
        self.width = width
        self._descriptor, self._positions = descriptor, positions

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, start: int, stop: int) -> Tensor:
        """Features ``[stop - start, width]``."""
        positions = self._positions[start:stop]
        out = np.empty((len(positions), self.width), np.float32)
        breaks = np.flatnonzero(np.diff(positions) != 1) + 1
        for first, last in zip([0, *breaks], [*breaks, len(positions)], strict=True):
            _read_all(self._descriptor, out[first:last], int(positions[first]) * 4 * self.width)
        return torch.from_numpy(out)

    def select(self, indices: NDArray[np.int64]) -> "CachedRows":
        """The rows at these indices."""
        return CachedRows(self._descriptor, self.width, self._positions[indices])


def _read_all(descriptor: int, out: NDArray[Any], position: int) -> None:
    """Fill ``out``; one call reads 2 GB at most."""
    rest = out.reshape(-1).view(np.uint8).data
    while rest:
        count = os.preadv(descriptor, [rest], position)
        if not count:
            raise EOFError("the feature cache became shorter while it was read")
        rest, position = rest[count:], position + count


def _write_all(descriptor: int, values: NDArray[Any], position: int) -> None:
    """Write the values; one call writes 2 GB at most."""
    rest = values.reshape(-1).view(np.uint8).data
    while rest:
        count = os.pwrite(descriptor, rest, position)
        rest, position = rest[count:], position + count


def _remove_old(top: Path) -> None:
    """Keep the ``MAX_KEPT`` caches that were used last, and those in use."""
    folders = sorted(top.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in folders[MAX_KEPT:]:
        with contextlib.suppress(OSError), (folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
