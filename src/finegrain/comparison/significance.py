"""Compare two models on the same test images: the difference of their top-1, and whether it is significant.

With one seed each, only the test images are a source of random error. With several seeds the runs are one
too: the same training with another seed gives another network, and a difference within that seed variance
proves nothing.
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
    """Top-1 of model a minus top-1 of model b, in -1..1."""

    difference: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    p_value: float
    """Two-sided; the null hypothesis is that there is no difference."""

    @property
    def verdict(self) -> str:
        """Whether a is significantly better or worse than b, in words."""
        if self.p_value >= SIGNIFICANCE:
            return "within noise"
        return "significantly better" if self.difference > 0 else "significantly worse"

    def reverse(self) -> "Comparison":
        """The same comparison of b with a."""
        return Comparison(-self.difference, -self.high, -self.low, self.p_value)


def compare(a: Bools, b: Bools) -> Comparison:
    """Compare the top-1 of two models on the same test images.

    With one seed each, the interval is a paired bootstrap's and p is exact (McNemar 1947). With several seeds
    both come from the variance between images and the variance between seeds. If every image has the same
    difference, as a single one always has, no variance can be estimated: see ``_compare_one_kind``.

    Args:
        a: ``[seeds, N]``, whether each prediction is correct; b may have another number of seeds.
    """
    gain = a.mean(0) - b.mean(0)
    if (gain == gain[0]).all():
        return _compare_one_kind(a, b)
    if len(a) == len(b) == 1:
        return Comparison(*_bootstrap(a[0], b[0]), _mcnemar(a[0], b[0]))
    return _compare_means_over_seeds(a, b)


def _compare_one_kind(a: Bools, b: Bools) -> Comparison:
    """Compare two models that differ by the same on every image.

    Other images may be unlike these: at 95 % confidence they are up to the share that Wilson's interval of
    N of N images leaves open, and then on them either model may be the only correct one. p is ``exact_p``.
    Where the models do not differ at all, only seeds are a source of error.
    """
    images, degrees = a.shape[1], len(a) + len(b) - 2
    gain = float((a.mean(0) - b.mean(0)).mean())
    unseen = 1 - metrics.wilson_interval(images, images)[0] if gain else 0.0
    of_seeds = float(stats.t.isf(0.025, degrees) * np.sqrt(_seed_variance(a, b))) if degrees else 0.0
    low, high = (float(np.hypot(unseen * (1 + sign * gain), of_seeds)) for sign in (1, -1))
    return Comparison(gain, max(-1.0, gain - low), min(1.0, gain + high), exact_p(a, b))


def _compare_means_over_seeds(a: Bools, b: Bools) -> Comparison:
    """Compare the means over seeds, with images and seeds as two independent sources of error.

    The half-widths of the two intervals are added as squares (Zou and Donner 2008); p is the level at which
    the joint interval ends at 0. The interval of the seeds is that of Student's t-test between them.
    """
    images, degrees = a.shape[1], len(a) + len(b) - 2
    variances = _error_variances(a, b)
    difference = float((a.mean(0) - b.mean(0)).mean())

    def half_width(p: float) -> float:
        return float(np.sqrt((stats.t.isf(p / 2, (images - 1, degrees)) ** 2 * variances).sum()))

    margin = half_width(0.05)
    low, high = max(-1.0, difference - margin), min(1.0, difference + margin)
    return Comparison(difference, low, high, _p_value(half_width, abs(difference)))


def _error_variances(a: Bools, b: Bools) -> Floats:
    """Variances of the difference of means that are due to the images and to the seeds, ``[2]``.

    The variance over images also contains the interaction of seed and image. The seed variance contains it
    already, so it is subtracted (two-way analysis of variance).
    """
    by_image = a.mean(0) - b.mean(0)
    images, degrees = len(by_image), len(a) + len(b) - 2
    pooled = np.add(_sums_of_squares(a), _sums_of_squares(b)) / degrees
    seed_variance, interaction = (pooled * (1 / len(a) + 1 / len(b))).tolist()
    # seeds whose top-1 happens to agree have a seed variance of 0, which holds no interaction
    interaction = min(interaction, images * seed_variance)
    return np.array([max(0.0, (by_image.var(ddof=1) - interaction) / images), seed_variance])


def _sums_of_squares(correct: Bools) -> tuple[float, float]:
    """Sums of squares of one model: of top-1 between its seeds, and of the interaction of seed and image.

    The second is divided by the N - 1 degrees of freedom of the images.
    """
    by_seed = correct.mean(1, keepdims=True) - correct.mean()
    interaction = correct - correct.mean(0) - by_seed
    return float((by_seed**2).sum()), float((interaction**2).sum() / (correct.shape[1] - 1))


def _p_value(half_width: Callable[[float], float], distance: float) -> float:
    """The p at which an interval of that half-width ends at 0, and at least ``TINY``."""
    if distance == 0:
        return 1.0
    if half_width(TINY) <= distance:
        return TINY
    return float(optimize.brentq(lambda p: half_width(p) - distance, TINY, 1.0))


def _seed_variance(a: Bools, b: Bools) -> float:
    """Variance of the difference of the means over seeds, pooled from the seeds' top-1."""
    squares = sum(((top1 - top1.mean()) ** 2).sum() for top1 in (a.mean(1), b.mean(1)))
    return float(squares / (len(a) + len(b) - 2) * (1 / len(a) + 1 / len(b)))


def holm_corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons in the same order, with p-values corrected for their number."""
    p_values = holm([comparison.p_value for comparison in comparisons])
    return [replace(c, p_value=p) for c, p in zip(comparisons, p_values, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979), in the same order."""
    corrected, floor = list(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = floor
    return corrected


def exact_p(a: Bools, b: Bools) -> float:
    """p-value for few images, such as those of one class: too few to estimate a variance from.

    A sign test counts the images on which more of a's seeds are correct against those on which more of b's
    are; with one seed each it is McNemar's test. With several seeds Student's t-test between the seeds' top-1
    must reject too, so the larger p of the two is returned (Berger 1982).

    Args:
        a: ``[seeds, N]``, whether each prediction is correct; b may have another number of seeds.
    """
    gain = a.mean(0) - b.mean(0)
    p_of_images = _sign_test(int((gain > TINY).sum()), int((gain < -TINY).sum()))
    degrees = len(a) + len(b) - 2
    if degrees == 0:
        return p_of_images
    error = np.sqrt(_seed_variance(a, b))
    if error < TINY:  # all seeds agree: the images are the only source of error
        return p_of_images
    return max(p_of_images, float(2 * stats.t.sf(abs(gain.mean()) / error, degrees)))


def accuracy_interval(correct: Bools) -> tuple[float, float]:
    """95 % interval of one model's top-1: Wilson's for the images, widened by the variance between its seeds.

    The half-widths of the two are added as squares (Zou and Donner 2008); it stays inside 0..1.

    Args:
        correct: ``[seeds, N]``.
    """
    mean, seeds = float(correct.mean()), len(correct)
    low, high = metrics.wilson_interval(mean * correct.shape[1], correct.shape[1])
    if seeds > 1:
        margin = stats.t.ppf(0.975, seeds - 1) * correct.mean(1).std(ddof=1) / np.sqrt(seeds)
        low = max(0.0, mean - float(np.hypot(mean - low, margin)))
        high = min(1.0, mean + float(np.hypot(high - mean, margin)))
    return low, high


def _bootstrap(
    a: Bools, b: Bools, seed: int = 0, draws: int = metrics.BOOTSTRAP_DRAWS
) -> tuple[float, float, float]:
    """The difference of two runs, and its 95 % percentile interval when images are drawn with replacement."""
    n, (only_a, only_b) = len(a), _discordant(a, b)
    # resampling images is the same as drawing how many are of each of the three kinds
    shares = np.array([only_a, only_b, n - only_a - only_b]) / n
    drawn: Floats = np.random.default_rng(seed).multinomial(n, shares, draws) / n
    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], (0.025, 0.975))
    return (only_a - only_b) / n, float(low), float(high)


def _mcnemar(a: Bools, b: Bools) -> float:
    """Exact p of McNemar's test, which counts only the images on which one of two runs is correct."""
    return _sign_test(*_discordant(a, b))


def _sign_test(up: int, down: int) -> float:
    return float(stats.binomtest(up, up + down).pvalue) if up + down else 1.0


def _discordant(a: Bools, b: Bools) -> tuple[int, int]:
    """How many images only a, and only b, predicts correctly."""
    return int((a & ~b).sum()), int((~a & b).sum())
