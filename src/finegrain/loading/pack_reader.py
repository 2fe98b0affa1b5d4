"""Read packed pixels from the disk, without mapping the files.

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
    """Files ``[N, side, side, 3]`` uint8 that stage pack wrote, seen as one.

    Raises:
        UserError: not such a file, or a part of it is missing.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [_PackFile(file) for file in files]
        ends = np.cumsum([file.count for file in self._files])
        self._ends: list[int] = ends.tolist()
        self.side: int = self._files[0].side

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, chosen: Tensor, crops: Tensor, out: NDArray[np.uint8]) -> None:
        """The rows that crops need, each where it stands in its image; the others keep what was there.

        Args:
            chosen: ``[n]`` indices of images.
            crops: ``[n, 4]`` of top, left, height, width.
            out: at least ``[n, side, side, 3]``.
        """
        for image, index, (top, _, height, _) in zip(out, chosen.tolist(), crops.tolist(), strict=False):
            number = bisect.bisect_right(self._ends, index)
            file = self._files[number]
            file.read(index - self._ends[number] + file.count, top, image[top : top + height])


class _PackFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as stream:
                np.lib.format.read_magic(stream)
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
                self._start = stream.tell()
        except FileNotFoundError:
            raise UserError(f"{path}: not found; `dvc repro` makes it") from None
        except ValueError:
            raise self._damaged() from None
        if fortran or dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise self._damaged()
        self.count, self.side = shape[:2]
        self._row_bytes = 3 * shape[2]
        if path.stat().st_size != self._start + self.count * self.side * self._row_bytes:
            raise self._damaged()
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, index: int, top: int, out: NDArray[np.uint8]) -> None:
        at = self._start + (index * self.side + top) * self._row_bytes
        left = out.reshape(-1)
        while len(left):
            done = os.preadv(self._descriptor, [left.data], at)
            if not done:
                raise self._damaged()
            left, at = left[done:], at + done

    def _damaged(self) -> UserError:
        return UserError(f"{self._path}: damaged or cut off; `dvc repro -f pack` makes it anew")
