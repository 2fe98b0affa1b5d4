"""Choose the penalty of a ridge regression by the leave-one-out loss, and the temperature with it."""

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from finegrain.models import calibration
from finegrain.ridge.regression import RidgeRegression

FIRST = 0.1
"""Penalty that is tried first, for features whose mean squared length is 1."""
FACTOR = 10**0.5
"""Ratio of one penalty to the next."""
MAX_STEPS = 8
"""Largest distance from the first penalty, in factors."""
SCALE = 32.0
"""Scores are near 0 or 1; the softmax of 32 times the scores is roughly calibrated."""


@dataclass(frozen=True)
class LeaveOneOut:
    """Out-of-sample predictions of the training images, at one strength."""

    strength: float
    logits: Tensor
    """``[N, classes]`` float32, divided by the temperature."""
    scale: float
    """Ratio of logits to scores."""
    loss: float
    """Mean negative log-likelihood in nats, with the weights of the images."""


def evaluate_strength(regression: RidgeRegression, strength: float) -> LeaveOneOut:
    """Leave-one-out logits with the temperature that gives them the lowest loss without weights.

    Raises:
        np.linalg.LinAlgError: the strength is too small for the precision of the features.
    """
    scores = SCALE * regression.leave_one_out(strength)
    if not scores.isfinite().all():
        raise np.linalg.LinAlgError("an image determines its own prediction")
    temperature = calibration.fit_temperature(scores.numpy(), regression.labels.numpy())
    logits = scores / temperature
    losses = F.cross_entropy(logits.double(), regression.labels, reduction="none")
    loss = (losses * regression.sample_weights).mean().item()
    return LeaveOneOut(strength, logits, SCALE / temperature, loss)


def choose_strength(regression: RidgeRegression, squared_length: float) -> list[LeaveOneOut]:
    """Try strengths downhill from the first; the best is last.

    Args:
        squared_length: mean squared length of the features; if it is 0, any strength gives the same.

    Raises:
        np.linalg.LinAlgError: even the first strength is too small for the precision of the features.
    """
    tried: dict[int, LeaveOneOut] = {}
    impossible: set[int] = set()
    best, candidates = 0, [0, 1, -1]
    while candidates:
        for step in candidates:
            strength = float(f"{FIRST * (squared_length or 1.0) * FACTOR**step:.3g}")
            try:
                tried[step] = evaluate_strength(regression, strength)
            except np.linalg.LinAlgError:
                if step >= 0:
                    raise
                impossible.add(step)
        best = min(tried, key=lambda step: tried[step].loss)
        candidates = [
            s for s in (best - 1, best + 1) if s not in {*tried, *impossible} and abs(s) <= MAX_STEPS
        ]
    return sorted(tried.values(), key=lambda each: -each.loss)
