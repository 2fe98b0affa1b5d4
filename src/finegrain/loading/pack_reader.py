"""Read packed images from the disk, without mapping the files into memory.

Pages of a mapped file count as the process's memory once they are touched: 20 GB after an epoch of 100,000
images of 256 px. A read costs one more copy, needs only the rows of a crop, and reports a file that has
become shorter instead of dying of SIGBUS.
"""

import bisect
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finegrain.core.errors import UserError


class PackReader:
    """Reads files ``[N, S, S, 3]`` uint8 that stage pack wrote, as if they were a single one.

    Raises:
        UserError: a file is missing, truncated or not such an array.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [_PackFile(file) for file in files]
        ends = np.cumsum([file.count for file in self._files])
        self._ends: list[int] = ends.tolist()
        self.image_size: int = self._files[0].image_size

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, indices: Tensor, crops: Tensor, out: NDArray[np.uint8]) -> None:
        """Read the rows that the crops need, each to its place in its image; other rows of ``out`` stay.

        Args:
            indices: ``[n]`` indices of the images.
            crops: ``[n, 4]`` of top, left, height, width.
            out: at least ``[n, S, S, 3]``.
        """
        for image, index, (top, _, height, _) in zip(out, indices.tolist(), crops.tolist(), strict=False):
            number = bisect.bisect_right(self._ends, index)
            file = self._files[number]
            file.read_rows(index - self._ends[number] + file.count, top, image[top : top + height])


class _PackFile:
    """One open file ``[N, S, S, 3]`` uint8."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as stream:
                np.lib.format.read_magic(stream)
                shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
                self._data_start = stream.tell()
        except FileNotFoundError:
            raise UserError(f"{path}: not found; run `dvc repro` to create it") from None
        except ValueError:
            raise self._damaged() from None
        if fortran_order or dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise self._damaged()
        self.count, self.image_size = shape[:2]
        self._row_bytes = 3 * shape[2]
        if path.stat().st_size != self._data_start + self.count * self.image_size * self._row_bytes:
            raise self._damaged()
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read_rows(self, index: int, top: int, out: NDArray[np.uint8]) -> None:
        """Fill ``out`` with rows of image ``index``, from row ``top`` on."""
        position = self._data_start + (index * self.image_size + top) * self._row_bytes
        rest = out.reshape(-1)
        while len(rest):
            count = os.preadv(self._descriptor, [rest.data], position)
            if not count:
                raise self._damaged()
            rest, position = rest[count:], position + count

    def _damaged(self) -> UserError:
        return UserError(f"{self._path}: damaged or truncated; run `dvc repro -f pack` to write it again")
