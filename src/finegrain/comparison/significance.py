"""Two models on the same test images: how far they are apart, and whether that is more than chance.

With one training each, chance is in the images alone. With several seeds it is in the trainings too: the same
recipe with another seed gives another network, and a difference that is smaller than that is none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from finegrain.evaluation import metrics
from finegrain.models.outputs import Floats

Bools = npt.NDArray[np.bool_]

SIGNIFICANCE = 0.05
TINY = 1e-12


@dataclass(frozen=True)
class Comparison:
    """Top-1 of a less that of b, in 0..1."""

    difference: float
    low: float
    """95 % interval; ``high`` alike."""
    high: float
    p_value: float
    """That there is no difference; two-sided."""

    @property
    def verdict(self) -> str:
        """On a."""
        if self.p_value >= SIGNIFICANCE:
            return "within noise"
        return "really better" if self.difference > 0 else "really worse"

    def reverse(self) -> "Comparison":
        """b against a."""
        return Comparison(-self.difference, -self.high, -self.low, self.p_value)


def compare(a: Bools, b: Bools) -> Comparison:
    """Compare what two models got right.

    One seed each: interval of the paired bootstrap, exact p of McNemar (1947). Several: the difference of the
    means over seeds; its interval joins the chance of the images and that of the seeds as their squares (Zou
    and Donner 2008), and p is the level at which the interval ends at 0. The seeds' part is that of Student's
    t-test between them, the spread being pooled over both models. One seed's luck with one image is in that
    part already, and is taken out of the images' (two-way analysis of variance).

    Args:
        a: ``[seeds, N]``, right or wrong; b may have another number of seeds.
    """
    if len(a) == len(b) == 1:
        return Comparison(*_bootstrap(a[0], b[0]), _mcnemar(a[0], b[0]))
    of_images = a.mean(0) - b.mean(0)
    images, freedom = len(of_images), len(a) + len(b) - 2
    pooled = np.add(_sums_of_squares(a), _sums_of_squares(b)) / freedom
    spread, luck = (pooled * (1 / len(a) + 1 / len(b))).tolist()
    shared = min(luck, images * spread)  # seeds that happen to agree hold nothing of it
    variance = np.array([max(0.0, (of_images.var(ddof=1) - shared) / images), spread])
    difference = float(of_images.mean())

    def reach(p: float) -> float:
        return float(np.sqrt((stats.t.isf(p / 2, (images - 1, freedom)) ** 2 * variance).sum()))

    half = reach(0.05)
    low, high = max(-1.0, difference - half), min(1.0, difference + half)
    return Comparison(difference, low, high, _level(reach, abs(difference)))


def _sums_of_squares(correct: Bools) -> tuple[float, float]:
    """Of one model's seeds: squares of their top-1's deviations, and those that are left image by image."""
    by_seed = correct.mean(1, keepdims=True) - correct.mean()
    luck = correct - correct.mean(0) - by_seed
    return float((by_seed**2).sum()), float((luck**2).sum() / (correct.shape[1] - 1))


def _level(reach: Callable[[float], float], distance: float) -> float:
    """The p at which an interval of that reach ends at 0; what is below ``TINY`` is told as that."""
    if distance == 0:
        return 1.0
    if reach(TINY) <= distance:
        return TINY
    return float(optimize.brentq(lambda p: reach(p) - distance, TINY, 1.0))


def _seed_variance(a: Bools, b: Bools) -> float:
    """Variance of the difference of the two means over seeds, by the spread of the seeds' top-1."""
    squares = sum(((top1 - top1.mean()) ** 2).sum() for top1 in (a.mean(1), b.mean(1)))
    return float(squares / (len(a) + len(b) - 2) * (1 / len(a) + 1 / len(b)))


def holm_corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """With p-values corrected for the number of comparisons, in the order given."""
    p_values = holm([comparison.p_value for comparison in comparisons])
    return [replace(c, p_value=p) for c, p in zip(comparisons, p_values, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for their number (Holm 1979), in the order given."""
    found, floor = list(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        found[index] = floor
    return found


def exact_p(a: Bools, b: Bools) -> float:
    """That there is no difference, of few images, such as one class's: too few to estimate a variance from.

    The sign test counts the images that more of a's seeds get right against those that more of b's do; of one
    seed each that is McNemar's. With several seeds the means of both must also be further apart than their
    own spread (Student's t-test): the larger p of the two holds, since both luck of the images and luck of
    the seeds must be ruled out (Berger 1982).

    Args:
        a: ``[seeds, N]``, right or wrong; b may have another number of seeds.
    """
    gain = a.mean(0) - b.mean(0)
    of_images = _sign_test(int((gain > TINY).sum()), int((gain < -TINY).sum()))
    freedom = len(a) + len(b) - 2
    if freedom == 0:
        return of_images
    error = np.sqrt(_seed_variance(a, b))
    if error < TINY:  # where all seeds agree, only the images are left to chance
        return of_images
    return max(of_images, float(2 * stats.t.sf(abs(gain.mean()) / error, freedom)))


def accuracy_interval(correct: Bools) -> tuple[float, float]:
    """95 % interval of top-1, of one model: Wilson's for the images, widened by the spread between its seeds.

    The two are joined as their squares (Zou and Donner 2008), so that it stays inside 0..1.

    Args:
        correct: ``[seeds, N]``.
    """
    mean, seeds = float(correct.mean()), len(correct)
    low, high = metrics.wilson_interval(mean * correct.shape[1], correct.shape[1])
    if seeds > 1:
        reach = stats.t.ppf(0.975, seeds - 1) * correct.mean(1).std(ddof=1) / np.sqrt(seeds)
        low = max(0.0, mean - float(np.hypot(mean - low, reach)))
        high = min(1.0, mean + float(np.hypot(high - mean, reach)))
    return low, high


def _bootstrap(
    a: Bools, b: Bools, seed: int = 0, draws: int = metrics.BOOTSTRAP_DRAWS
) -> tuple[float, float, float]:
    """The difference, and the 95 % percentile interval of drawing the images with replacement."""
    n, (only_a, only_b) = len(a), _only(a, b)
    # drawing images with replacement is drawing how many are of each of the three kinds
    shares = np.array([only_a, only_b, n - only_a - only_b]) / n
    drawn: Floats = np.random.default_rng(seed).multinomial(n, shares, draws) / n
    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], (0.025, 0.975))
    return (only_a - only_b) / n, float(low), float(high)


def _mcnemar(a: Bools, b: Bools) -> float:
    """Exact; only the images that one gets right and the other wrong count."""
    return _sign_test(*_only(a, b))


def _sign_test(up: int, down: int) -> float:
    return float(stats.binomtest(up, up + down).pvalue) if up + down else 1.0


def _only(a: Bools, b: Bools) -> tuple[int, int]:
    return int((a & ~b).sum()), int((~a & b).sum())
