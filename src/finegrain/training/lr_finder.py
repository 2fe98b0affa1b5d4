"""The LR range test: losses at growing learning rates, and the rates that they suggest.

Smith 2015, https://arxiv.org/abs/1506.01186; the suggestions follow fastai's LR finder.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finegrain.config.training import LRRangeTest
from finegrain.core.errors import UserError

SMOOTHING = 0.95
"""Weight of the past in the moving average of the loss; its bias towards zero is corrected."""
DIVERGENCE_FACTOR = 4.0
"""The test ends once the smoothed loss is so many times its smallest value (fastai's rule)."""
MIN_POINTS = 10
"""Fewer points than this give no suggestion."""


@dataclass(frozen=True)
class LRPoint:
    """One step of the test: learning rate, loss before the step, and moving average of the loss."""

    lr: float
    loss: float
    smoothed_loss: float


def run_sweep(step: Callable[[float], float], config: LRRangeTest) -> list[LRPoint]:
    """Take training steps at learning rates that grow geometrically from ``start`` to ``end``.

    Args:
        step: takes one training step at the given learning rate and returns its loss.

    Returns:
        One point per step, up to the end or until the loss diverged; a loss that is not finite is left out.
    """
    points: list[LRPoint] = []
    average = 0.0
    growth = (config.end / config.start) ** (1 / (config.steps - 1))
    for i in range(config.steps):
        lr = config.start * growth**i
        loss = step(lr)
        if not math.isfinite(loss):
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed = average / (1 - SMOOTHING ** (i + 1))
        points.append(LRPoint(lr, loss, smoothed))
        if smoothed > DIVERGENCE_FACTOR * min(point.smoothed_loss for point in points):
            break
    return points


def suggest(points: Sequence[LRPoint], kind: str) -> float:
    """Choose a learning rate.

    Args:
        kind: ``steepest`` is where the smoothed loss falls fastest over the logarithm of the learning rate;
            ``valley`` is half way down its longest decrease (fastai's takes
            the middle by count).

    Raises:
        UserError: the loss never fell, or diverged within the first steps.
    """
    if len(points) < MIN_POINTS:
        raise UserError(
            f"params.yaml: lr_range_test.start: the loss diverged after {len(points)} steps; set it lower"
        )
    found = suggestions(points)
    if kind not in found:
        raise UserError(
            "params.yaml: lr: auto: the loss fell at no rate between lr_range_test.start and end; "
            "widen the range or give lr a number"
        )
    return found[kind]


def suggestions(points: Sequence[LRPoint]) -> dict[str, float]:
    """Every suggestion by name; empty where the loss never fell.

    The first tenth of the points is skipped: there the moving average covers few batches and is mostly noise.
    """
    points = points[len(points) // 10 :]
    found = {"steepest": _steepest(points), "valley": _valley(points)}
    return {name: lr for name, lr in found.items() if lr is not None}


def _steepest(points: Sequence[LRPoint]) -> float | None:
    """The learning rate at the steepest decrease of the loss.

    Rates are evenly spaced on a log scale, so that differences are slopes. They are taken over a sixth of the
    test, or the noise of a few batches would be the steepest.
    """
    reach = max(1, len(points) // 12)
    losses = [point.smoothed_loss for point in points]
    inner = range(reach, len(points) - reach)
    if not inner:
        return None
    steepest = min(inner, key=lambda i: losses[i + reach] - losses[i - reach])
    return points[steepest].lr if losses[steepest + reach] < losses[steepest - reach] else None


def _valley(points: Sequence[LRPoint]) -> float | None:
    """The learning rate half way down the longest decrease.

    Half way by loss, since a smooth curve falls a little on its plateau, too.
    """
    chain = longest_decrease([point.smoothed_loss for point in points])
    if len(chain) < 3:
        return None
    half = (points[chain[0]].smoothed_loss + points[chain[-1]].smoothed_loss) / 2
    return next(points[i].lr for i in chain if points[i].smoothed_loss <= half)


def longest_decrease(values: Sequence[float]) -> list[int]:
    """Indices of the longest strictly decreasing subsequence (patience sorting, n log n)."""
    tails: list[float] = []  # negated last values of the best chain of each length
    ends: list[int] = []
    before = [-1] * len(values)
    for i, value in enumerate(values):
        place = bisect.bisect_left(tails, -value)
        if place == len(tails):
            tails.append(-value)
            ends.append(i)
        else:
            tails[place], ends[place] = -value, i
        before[i] = ends[place - 1] if place else -1
    chain: list[int] = []
    at = ends[-1] if ends else -1
    while at >= 0:
        chain.append(at)
        at = before[at]
    return chain[::-1]
