"""Expected calibration error, temperature scaling, and the confidence below which a class is unknown."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from finegrain.models.outputs import CHUNK_ROWS, Floats, Ints, log_softmax

BINS = 15
"""Number of confidence bins, of equal width, as in Guo et al. 2017."""

KNOWN_SHARE = 0.95
"""Share of the correct predictions whose confidence is above ``unknown_below``."""


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, bin by bin: ``[BINS]`` each; zeros for a bin without images."""

    images: Floats
    """Number of images in the bin."""
    confidence: Floats
    """Mean confidence of the bin's images."""
    accuracy: Floats
    """Share of the bin's images that are predicted correctly."""

    @property
    def ece(self) -> float:
        """Expected calibration error (Naeini et al. 2015): mean gap between the two, weighted by images."""
        return float((self.images * abs(self.accuracy - self.confidence)).sum() / self.images.sum())


def bin_index(confidence: Floats) -> Ints:
    """Bin (low, high] of each confidence, ``[N]``; 0 is in the first bin."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def reliability_bins(
    confidence: Floats, correct: npt.NDArray[np.bool_], weights: Ints | None = None
) -> Reliability:
    """Mean confidence and accuracy of every bin.

    Args:
        confidence: ``[N]`` probability of the predicted class.
        correct: ``[N]`` whether the predicted class is the true one.
        weights: ``[N]`` how often each image counts; None means once.
    """
    bins, weight = bin_index(confidence), np.ones(len(confidence)) if weights is None else weights
    images = np.bincount(bins, weight, BINS).astype(np.float64)
    at_least_one = np.maximum(images, 1)
    return Reliability(
        images,
        np.bincount(bins, weight * confidence, BINS) / at_least_one,
        np.bincount(bins, weight * correct, BINS) / at_least_one,
    )


def fit_temperature(logits: npt.NDArray[np.float32], labels: Ints) -> float:
    """Temperature that minimizes the negative log-likelihood of ``softmax(logits / temperature)``.

    Temperature scaling (Guo et al. 2017, https://arxiv.org/abs/1706.04599) changes the confidence but never
    the predicted class. The temperature is limited to 0.25..10, because a small validation set without
    mistakes has no minimum.

    Args:
        logits: ``[N, C]`` of the validation images.
        labels: ``[N]``.
    """

    def loss(log_temperature: float) -> float:
        total = 0.0
        for start in range(0, len(labels), CHUNK_ROWS):
            scaled = logits[start : start + CHUNK_ROWS].astype(np.float64) / np.exp(log_temperature)
            total -= np.take_along_axis(
                log_softmax(scaled), labels[start : start + CHUNK_ROWS, None], 1
            ).sum()
        return total / len(labels)

    best = minimize_scalar(loss, bounds=(np.log(0.25), np.log(10)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def fit_unknown_threshold(confidence: Floats, correct: npt.NDArray[np.bool_]) -> float:
    """Confidence below which an image counts as none of the classes; 95 % of correct predictions are above.

    This is the maximum softmax probability baseline of Hendrycks and Gimpel 2017
    (https://arxiv.org/abs/1610.02136), with a threshold chosen on validation images alone.

    Args:
        confidence: ``[N]`` calibrated probability of the predicted class.
        correct: ``[N]`` whether the predicted class is the true one.

    Returns:
        The threshold, or 0 if no prediction is correct.
    """
    return float(np.quantile(confidence[correct], 1 - KNOWN_SHARE)) if correct.any() else 0.0
