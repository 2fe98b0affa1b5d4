"""A large symmetric positive definite matrix that is factorized for several strengths in its own memory."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
BLOCK = 2048
"""Columns that are copied at a time."""


class ShiftedMatrix:
    """``matrix + diag(shift)`` for several shifts, in the memory of one matrix.

    The part above the diagonal keeps the matrix; LAPACK works on the diagonal and below it.
    """

    def __init__(self, size: int) -> None:
        """Start with zeros, ``[size, size]`` float64."""
        self._values: Matrix = np.zeros((size, size), order="F")
        self._diagonal: Matrix | None = None

    def __len__(self) -> int:
        return len(self._values)

    def add(self, start: int, columns: Matrix) -> None:
        """Add to the columns from ``start`` on: ``[size - start, k]``, from the diagonal downwards."""
        stop = start + columns.shape[1]
        self._values[start:stop, start:stop] += columns[: stop - start]
        self._values[start:stop, stop:] += columns[stop - start :].T

    def elements(self, rows: Indices, columns: Indices) -> Matrix:
        """Elements ``[rows, columns]`` of the matrix at these indices, without a shift."""
        if self._diagonal is None:
            self._diagonal = self._values.diagonal().copy()
        low, high = np.minimum.outer(rows, columns), np.maximum.outer(rows, columns)
        return np.where(low == high, self._diagonal[low], self._values[low, high])

    def select(self, indices: Indices) -> "ShiftedMatrix":
        """The matrix of these rows and columns alone."""
        part = ShiftedMatrix(len(indices))
        for start in range(0, len(indices), BLOCK):
            part.add(start, self.elements(indices[start:], indices[start : start + BLOCK]))
        return part

    def factorize(self, shift: Matrix | float) -> None:
        """Compute the Cholesky factor of ``matrix + diag(shift)``.

        Raises:
            np.linalg.LinAlgError: it is not positive definite.
        """
        if self._diagonal is None:
            self._diagonal = self._values.diagonal().copy()
        size = len(self)
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            block = self._values[start:stop, start:stop]
            block[:] = np.triu(block) + np.triu(block, 1).T
            self._values[stop:, start:stop] = self._values[start:stop, stop:].T
        np.fill_diagonal(self._values, self._diagonal + shift)
        self._run(lapack.dpotrf(self._values, lower=1, clean=0, overwrite_a=1))

    def solve(self, right: Matrix) -> Matrix:
        """Solution ``[size, k]`` for the right-hand sides ``[size, k]``; after ``factorize``."""
        return self._run(lapack.dpotrs(self._values, right, lower=1))

    def whiten(self, right: Matrix) -> Matrix:
        """``L^-1 right`` for the Cholesky factor L, ``[size, k]``; after ``factorize``."""
        return self._run(lapack.dtrtrs(self._values, right, lower=1))

    def inverse_diagonal(self) -> Matrix:
        """Diagonal of the inverse, ``[size]``; after ``factorize``, whose factor it overwrites."""
        self._run(lapack.dtrtri(self._values, lower=1, overwrite_c=1))
        return np.array([column[i:] @ column[i:] for i, column in enumerate(self._values.T)])

    def _run(self, results: tuple[Any, ...]) -> Matrix:
        result, info = results
        if info:
            raise np.linalg.LinAlgError(f"LAPACK: {info}")
        return np.asarray(result)
