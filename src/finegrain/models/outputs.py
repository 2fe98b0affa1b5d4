"""Predictions from logits, and the metrics that average over classes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TOP = 5
"""Number of classes that are kept for each image, or all of them where there are fewer."""
CHUNK_ROWS = 4096
"""Rows converted to float64 at a time: logits of 1000 classes would take 10 GB for a million images."""


@dataclass(frozen=True)
class Predictions:
    """Labels, most probable classes and loss of N images."""

    labels: Ints
    """``[N]`` true class ids."""
    top_classes: Ints
    """``[N, min(5, classes)]`` class ids by decreasing probability; of equals, the lower id first."""
    top_probabilities: Floats
    """``[N, min(5, classes)]`` probabilities of ``top_classes``."""
    loss: Floats
    """``[N]`` negative log-likelihood of the true class in nats; finite even where its probability is 0."""
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> Ints:
        """``[N]`` ids of the most probable class."""
        return self.top_classes[:, 0]

    @property
    def confidence(self) -> Floats:
        """``[N]`` probability of the predicted class."""
        return self.top_probabilities[:, 0]

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """``[N]`` whether the predicted class is the true one."""
        return self.predicted == self.labels

    @property
    def correct_in_top5(self) -> npt.NDArray[np.bool_]:
        """``[N]`` whether the true class is one of the five most probable."""
        return (self.top_classes == self.labels[:, None]).any(1)


def from_logits(logits: npt.NDArray[np.float32], labels: Ints, temperature: float = 1.0) -> Predictions:
    """Predictions by the softmax of ``logits / temperature``.

    Args:
        logits: ``[N, C]``.
        labels: ``[N]``.
    """
    n, num_classes = logits.shape
    top_classes = np.empty((n, min(TOP, num_classes)), np.int64)
    top_probabilities, loss = np.empty(top_classes.shape), np.empty(n)
    for start in range(0, n, CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        log_p = log_softmax(logits[rows].astype(np.float64) / temperature)
        best = np.argsort(-log_p, axis=1, kind="stable")[:, : top_classes.shape[1]]
        top_classes[rows], top_probabilities[rows] = best, np.exp(np.take_along_axis(log_p, best, 1))
        loss[rows] = -log_p[np.arange(len(log_p)), labels[rows]]
    return Predictions(labels, top_classes, top_probabilities, loss, num_classes)


def class_averages(
    labels: Ints, predicted: Ints, num_classes: int, weights: Floats | None = None
) -> dict[str, float]:
    """``macro_f1`` and ``mean_class_accuracy``, in 0..1: means over the classes that have an image.

    Args:
        labels: ``[N]``, and ``predicted`` likewise.
        weights: ``[N]`` how often each image counts; None means once.
    """

    def sums(ids: Ints, values: Floats | None) -> Floats:
        return np.bincount(ids, values, num_classes).astype(np.float64)

    images, positives, hits = sums(labels, weights), sums(predicted, weights), labels == predicted
    true_positives = sums(labels[hits], weights if weights is None else weights[hits])
    present = images > 0
    return {
        "macro_f1": float((2 * true_positives[present] / (images + positives)[present]).mean()),
        "mean_class_accuracy": float((true_positives[present] / images[present]).mean()),
    }


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities ``[N, C]``, without the underflow of ``log(softmax(logits))``."""
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
