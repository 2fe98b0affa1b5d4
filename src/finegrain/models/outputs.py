"""What a network answers for every image: the most probable classes, and the loss."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TOP = 5
BLOCK = 4096
"""Rows that are in float64 at a time: logits of a thousand classes would be 10 GB for a million images."""


@dataclass(frozen=True)
class Predictions:
    """Of N images; float64 and int64."""

    labels: Ints
    """``[N]`` true class ids."""
    top: Ints
    """``[N, up to 5]`` class ids, the most probable first; among equals the lower id."""
    probabilities: Floats
    """``[N, up to 5]`` of these."""
    loss: Floats
    """``[N]`` negative log-likelihood of the true class, nats: finite for a sure mistake too."""
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> Ints:
        return self.top[:, 0]

    @property
    def confidence(self) -> Floats:
        """``[N]`` probability of the predicted class."""
        return self.probabilities[:, 0]

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        return self.predicted == self.labels

    @property
    def in_top(self) -> npt.NDArray[np.bool_]:
        """Whether the true class is among the five."""
        return (self.top == self.labels[:, None]).any(1)


def from_logits(logits: npt.NDArray[np.float32], labels: Ints, temperature: float = 1.0) -> Predictions:
    """The softmax of ``logits / temperature``.

    Args:
        logits: ``[N, C]``.
        labels: ``[N]``.
    """
    n, classes = logits.shape
    top = np.empty((n, min(TOP, classes)), np.int64)
    probabilities, loss = np.empty(top.shape), np.empty(n)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        log_p = log_softmax(logits[rows].astype(np.float64) / temperature)
        best = np.argsort(-log_p, axis=1, kind="stable")[:, : top.shape[1]]
        top[rows], probabilities[rows] = best, np.exp(np.take_along_axis(log_p, best, 1))
        loss[rows] = -log_p[np.arange(len(log_p)), labels[rows]]
    return Predictions(labels, top, probabilities, loss, classes)


def log_softmax(logits: Floats) -> Floats:
    """``[N, C]``, without the loss of digits that ``log(softmax)`` has."""
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
