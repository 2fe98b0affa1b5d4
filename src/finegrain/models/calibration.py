"""Whether a network that says 80 % is right in 80 of 100 cases, and the temperature that makes it so."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from finegrain.models.outputs import Floats, Ints, log_softmax

BINS = 15
"""Of equal width, as in Guo et al. 2017."""

KNOWN_SHARE = 0.95
"""Share of the right answers that ``unknown_below`` lets pass."""


@dataclass(frozen=True)
class Reliability:
    """``[BINS]`` each; a bin without images has zeros."""

    images: Floats
    confidence: Floats
    """Mean confidence of the bin's images."""
    accuracy: Floats

    @property
    def error(self) -> float:
        """Expected calibration error (Naeini et al. 2015): how far the two are apart, weighted by images."""
        return float((self.images * abs(self.accuracy - self.confidence)).sum() / self.images.sum())


def bin_index(confidence: Floats) -> Ints:
    """``[N]`` number of the bin (low, high] that each confidence is in; 0 is in the first."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def reliability_bins(
    confidence: Floats, correct: npt.NDArray[np.bool_], weights: Ints | None = None
) -> Reliability:
    """Confidence against accuracy, bin by bin.

    Args:
        confidence: ``[N]`` probability of the predicted class.
        correct: ``[N]``.
        weights: ``[N]`` how often each image counts.
    """
    bins, weight = bin_index(confidence), np.ones(len(confidence)) if weights is None else weights
    images = np.bincount(bins, weight, BINS).astype(np.float64)
    whole = np.maximum(images, 1)
    return Reliability(
        images,
        np.bincount(bins, weight * confidence, BINS) / whole,
        np.bincount(bins, weight * correct, BINS) / whole,
    )


def fit_temperature(logits: npt.NDArray[np.float32], labels: Ints) -> float:
    """What to divide logits by so that their negative log-likelihood is least (Guo et al. 2017).

    Answers stay the same, only confidence changes. Fitted on validation, between 0.25 and 10: a small
    validation set that is all right would have no lowest.

    Args:
        logits: ``[N, C]``.
        labels: ``[N]``.
    """
    values, rows = logits.astype(np.float64), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(values / np.exp(log_temperature))[rows, labels].mean())

    found = minimize_scalar(
        loss, bounds=(np.log(0.25), np.log(10)), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def fit_unknown_threshold(confidence: Floats, correct: npt.NDArray[np.bool_]) -> float:
    """Confidence under which a photo is like no known class: 95 % of the right answers lie above it.

    Chosen on validation, which holds known classes only: it says how many of those are lost, not how many
    strangers are caught (Hendrycks and Gimpel 2017, https://arxiv.org/abs/1610.02136, call it the baseline).

    Args:
        confidence: ``[N]`` calibrated probability of the predicted class.
    """
    return float(np.quantile(confidence[correct], 1 - KNOWN_SHARE)) if correct.any() else 0.0
