"""Ridge regression on one-hot labels, exactly, with the leave-one-out scores of every training image.

Minimizes ``sum_i s_i |y_i - W x_i - b|^2 + strength |W|^2`` over W and b, for one-hot labels y. What another
solution without image i would predict for it follows from the same factorization: the residual divided by one
minus the image's leverage (Allen 1974; Hastie, Tibshirani and Friedman, section 7.10).

With fewer images than features it solves for a coefficient of each image (the dual), else for the weights.
Either way it reads features block by block and keeps one square float64 matrix of the smaller of both sizes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from finegrain.ridge.linear_system import Indices, Matrix, ShiftedMatrix

BLOCK = 1024
"""Images that are read at a time."""
PANEL = 4096
"""Columns of the features' covariance that are computed at a time."""


class Rows(Protocol):
    """Features of N images, ``[N, width]`` float32, that need not fit in memory."""

    @property
    def width(self) -> int: ...
    def __len__(self) -> int: ...
    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``[stop - start, width]`` float32."""
        ...

    def select(self, indices: Indices) -> "Rows":
        """The rows at these indices."""
        ...


@dataclass(frozen=True)
class Solution:
    """A linear layer."""

    weight: Tensor
    """``[classes, width]`` float32."""
    bias: Tensor
    """``[classes]`` float32."""

    def scores(self, rows: Rows) -> Tensor:
        """``[N, classes]`` float32: near 1 for the class of an image, near 0 for others."""
        return torch.cat(
            [torch.addmm(self.bias, rows.read(*block), self.weight.T) for block in blocks(len(rows))]
        )


def blocks(n: int) -> list[tuple[int, int]]:
    """Start and end of the blocks of n images."""
    return [(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


class RidgeRegression(ABC):
    """The sums over all images, from which a solution for any strength follows."""

    def __init__(self, rows: Rows, labels: Tensor, num_classes: int, sample_weights: Tensor) -> None:
        """Read the features once, or in the dual several times.

        Args:
            labels: ``[N]`` int64.
            sample_weights: ``[N]`` positive, with a mean of 1.
        """
        self.rows, self.labels, self.sample_weights = rows, labels, sample_weights
        self._num_classes = num_classes
        self._weights: Matrix = sample_weights.double().numpy()

    def _targets(self, start: int, stop: int) -> Matrix:
        """One-hot labels ``[stop - start, classes]``."""
        labels = self.labels[start:stop]
        return torch.nn.functional.one_hot(labels, self._num_classes).double().numpy()

    @abstractmethod
    def solve(self, strength: float) -> Solution:
        """The exact solution."""

    @abstractmethod
    def leave_one_out(self, strength: float) -> Tensor:
        """Scores ``[N, classes]`` float32 of each image, from the solution without that image."""

    def predict_rest(self, used: Indices, rest: Indices, sample_weights: Tensor, strength: float) -> Tensor:
        """Scores ``[len(rest), classes]`` float32 of the images ``rest``, from the solution of ``used``.

        Args:
            used: ``[n]``, ascending.
            sample_weights: ``[n]``, of the images ``used``.
        """
        part = regression(self.rows.select(used), self.labels[used], self._num_classes, sample_weights)
        return part.solve(strength).scores(self.rows.select(rest))


def regression(rows: Rows, labels: Tensor, num_classes: int, sample_weights: Tensor) -> RidgeRegression:
    """The cheaper of the two ways to the same solution."""
    kind = _Dual if len(rows) <= rows.width else _Primal
    return kind(rows, labels, num_classes, sample_weights)


class _Dual(RidgeRegression):
    """Coefficients of the images, from the products of their features (the Gram matrix).

    The intercept is a bordering row: ``[[K + strength / s, 1], [1, 0]]`` (Saunders et al. 1998; the
    leave-one-out formula of Cawley 2006, https://doi.org/10.1109/IJCNN.2006.246634).
    """

    def __init__(
        self,
        rows: Rows,
        labels: Tensor,
        num_classes: int,
        sample_weights: Tensor,
        gram: ShiftedMatrix | None = None,
    ) -> None:
        super().__init__(rows, labels, num_classes, sample_weights)
        self._gram = _gram_matrix(rows) if gram is None else gram

    def solve(self, strength: float) -> Solution:
        coefficients, bias, _ = self._coefficients(strength)
        values = torch.from_numpy(coefficients).float()
        weight = sum(
            values[start:stop].T @ self.rows.read(start, stop) for start, stop in blocks(len(self.rows))
        )
        assert isinstance(weight, Tensor)
        return Solution(weight, torch.from_numpy(bias).float())

    def leave_one_out(self, strength: float) -> Tensor:
        coefficients, _, ones = self._coefficients(strength)
        diagonal = self._gram.inverse_diagonal() - ones**2 / ones.sum()
        scores = self._targets(0, len(self.rows)) - coefficients / diagonal[:, None]
        return torch.from_numpy(scores).float()

    def predict_rest(self, used: Indices, rest: Indices, sample_weights: Tensor, strength: float) -> Tensor:
        # the products of all pairs of images are there: no features are read again
        gram = self._gram.select(used)
        part = _Dual(self.rows.select(used), self.labels[used], self._num_classes, sample_weights, gram)
        coefficients, bias, _ = part._coefficients(strength)
        scores = [
            self._gram.elements(rest[start:stop], used) @ coefficients + bias
            for start, stop in blocks(len(rest))
        ]
        return torch.from_numpy(np.concatenate(scores)).float()

    def _coefficients(self, strength: float) -> tuple[Matrix, Matrix, Matrix]:
        """Coefficients ``[N, classes]``, bias ``[classes]``, and the system's solution ``[N]`` for ones."""
        self._gram.factorize(strength / self._weights)
        n = len(self.rows)
        solved = self._gram.solve(np.column_stack((self._targets(0, n), np.ones(n))))
        targets, ones = solved[:, :-1], solved[:, -1]
        bias = targets.sum(0) / ones.sum()
        return targets - np.outer(ones, bias), bias, ones


def _gram_matrix(rows: Rows) -> ShiftedMatrix:
    """Products of the features of all pairs of images."""
    gram = ShiftedMatrix(len(rows))
    for start, stop in blocks(len(rows)):
        columns = rows.read(start, stop)
        below = [columns, *(rows.read(*other) for other in blocks(len(rows)) if other[0] >= stop)]
        gram.add(start, torch.cat([block @ columns.T for block in below]).double().numpy())
    return gram


class _Primal(RidgeRegression):
    """The weights, from the features' weighted covariance: its size does not depend on the images."""

    def __init__(self, rows: Rows, labels: Tensor, num_classes: int, sample_weights: Tensor) -> None:
        super().__init__(rows, labels, num_classes, sample_weights)
        self._total = self._weights.sum()
        self._mean: Matrix = np.zeros(rows.width)
        for start, stop in blocks(len(rows)):
            self._mean += self._weights[start:stop] @ rows.read(start, stop).double().numpy() / self._total
        self._covariance = ShiftedMatrix(rows.width)
        self._target_mean = np.bincount(labels.numpy(), self._weights, num_classes) / self._total
        self._products: Matrix = np.zeros((rows.width, num_classes))
        for start, stop in blocks(len(rows)):
            self._add(self._centered(start, stop), start, stop)

    def _centered(self, start: int, stop: int) -> Tensor:
        return self.rows.read(start, stop) - torch.from_numpy(self._mean).float()

    def _add(self, centered: Tensor, start: int, stop: int) -> None:
        """Add the images from ``start`` to ``stop`` to the sums."""
        weights = torch.from_numpy(self._weights[start:stop, None]).float()
        for panel in range(0, self.rows.width, PANEL):
            columns = (centered[:, panel : panel + PANEL] * weights).contiguous()
            self._covariance.add(panel, (centered[:, panel:].T @ columns).double().numpy())
        targets = self._weights[start:stop, None] * (self._targets(start, stop) - self._target_mean)
        self._products += (centered.T @ torch.from_numpy(targets).float()).double().numpy()

    def solve(self, strength: float) -> Solution:
        self._covariance.factorize(strength)
        weight = self._covariance.solve(self._products)
        bias = self._target_mean - self._mean @ weight
        return Solution(torch.from_numpy(weight.T.copy()).float(), torch.from_numpy(bias).float())

    def leave_one_out(self, strength: float) -> Tensor:
        solution, scores = self.solve(strength), torch.empty(len(self.rows), self._num_classes)
        for start, stop in blocks(len(self.rows)):
            centered = self._centered(start, stop)
            whitened = self._covariance.whiten(centered.T.double().numpy())
            leverage = self._weights[start:stop] * (1 / self._total + (whitened**2).sum(0))
            predicted = (centered @ solution.weight.T).double().numpy() + self._target_mean
            targets = self._targets(start, stop)
            block = targets - (targets - predicted) / (1 - leverage)[:, None]
            scores[start:stop] = torch.from_numpy(block)
        return scores
