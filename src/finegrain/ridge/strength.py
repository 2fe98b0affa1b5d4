"""Choose the penalty of a ridge regression by the leave-one-out loss, and the temperature with it."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finegrain.models import calibration
from finegrain.ridge.regression import RidgeRegression, blocks

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
    scores = regression.leave_one_out(strength).mul_(SCALE)
    if not scores.isfinite().all():
        raise np.linalg.LinAlgError("an image determines its own prediction")
    temperature = calibration.fit_temperature(scores.numpy(), regression.labels.numpy())
    logits = scores.div_(temperature)
    losses = torch.cat(
        [
            F.cross_entropy(logits[start:stop].double(), regression.labels[start:stop], reduction="none")
            for start, stop in blocks(len(logits))
        ]
    )
    loss = (losses * regression.sample_weights).mean().item()
    return LeaveOneOut(strength, logits, SCALE / temperature, loss)


def choose_strength(
    regression: RidgeRegression, squared_length: float
) -> tuple[LeaveOneOut, dict[float, float]]:
    """Try strengths downhill from the first.

    Args:
        squared_length: mean squared length of the features; if it is 0, any strength gives the same.

    Returns:
        What the best one predicts, and the loss by strength, in ascending order, of all that were tried.

    Raises:
        np.linalg.LinAlgError: even the first strength is too small for the precision of the features.
    """
    best: LeaveOneOut | None = None
    losses: dict[int, float] = {}
    impossible: set[int] = set()
    candidates = [0, 1, -1]
    while candidates:
        for step in candidates:
            try:
                tried = evaluate_strength(regression, _strength(squared_length, step))
            except np.linalg.LinAlgError:
                if step >= 0:
                    raise
                impossible.add(step)
                continue
            losses[step] = tried.loss
            if best is None or tried.loss < best.loss:
                best = tried  # the predictions of the others take too much memory to keep
        lowest = min(losses, key=losses.__getitem__)
        candidates = [
            step
            for step in (lowest - 1, lowest + 1)
            if step not in {*losses, *impossible} and abs(step) <= MAX_STEPS
        ]
    assert best is not None
    return best, {_strength(squared_length, step): losses[step] for step in sorted(losses)}


def _strength(squared_length: float, step: int) -> float:
    return float(f"{FIRST * (squared_length or 1.0) * FACTOR**step:.3g}")
