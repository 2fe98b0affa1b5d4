"""Compare two models on the same test images: how they differ, and whether that is significant.

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
from finegrain.models.outputs import Floats, Ints

Bools = npt.NDArray[np.bool_]

SIGNIFICANCE = 0.05
TINY = 1e-12


@dataclass(frozen=True)
class Comparison:
    """A metric of model a minus that of model b."""

    difference: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    p_value: float
    """Two-sided; the null hypothesis is that there is no difference."""
    lower_is_better: bool = False
    """As for the loss."""

    @property
    def verdict(self) -> str:
        """Whether a is significantly better or worse than b, in words."""
        if self.p_value >= SIGNIFICANCE:
            return "within noise"
        better = (self.difference > 0) != self.lower_is_better
        return "significantly better" if better else "significantly worse"

    def reverse(self) -> "Comparison":
        """The same comparison of b with a."""
        return replace(self, difference=-self.difference, low=-self.high, high=-self.low)


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
    found = compare_means(a.astype(np.float64), b.astype(np.float64))
    return replace(found, low=max(-1.0, found.low), high=min(1.0, found.high))


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


def compare_means(a: Floats, b: Floats, strata: Ints | None = None) -> Comparison:
    """Compare two means over images and seeds, which are two independent sources of error.

    The half-widths of the two intervals are added as squares (Zou and Donner 2008); p is the level at which
    the joint interval ends at 0. The interval of the seeds is that of Student's t-test between them; with one
    seed each there is none.

    Args:
        a: ``[seeds, N]``, a value for each image; b may have another number of seeds.
        strata: ``[N]`` ids of the groups whose sizes are fixed, such as classes; None means one group.
    """
    variances, degrees = _error_variances(a, b, np.zeros(a.shape[1], np.int64) if strata is None else strata)
    difference = float((a.mean(0) - b.mean(0)).mean())

    def half_width(p: float) -> float:
        return float(np.sqrt((stats.t.isf(p / 2, degrees) ** 2 * variances).sum()))

    margin = half_width(0.05)
    p_value = _p_value(half_width, abs(difference))
    return Comparison(difference, difference - margin, difference + margin, p_value)


def _error_variances(a: Floats, b: Floats, strata: Ints) -> tuple[Floats, Floats]:
    """Variances of the difference of means that are due to the images and to the seeds, and their degrees.

    The variance over images also contains the interaction of seed and image. The seed variance contains it
    already, so it is subtracted (two-way analysis of variance). Degrees of freedom over several strata are
    Satterthwaite's (1946).
    """
    by_image, sizes = a.mean(0) - b.mean(0), np.bincount(strata)
    by_stratum = _variances_of_mean((by_image - by_image.mean())[None], strata)[0]
    if not by_stratum.any():  # every stratum agrees within itself: then it may only be too small to disagree
        by_stratum = np.bincount(strata, by_image**2) / len(by_image) ** 2
    variance = by_stratum.sum()
    freedom = (by_stratum**2 / np.maximum(sizes - 1, 1)).sum()
    of_images = variance**2 / freedom if freedom else max(1, len(by_image) - 1)
    of_seeds = len(a) + len(b) - 2
    if of_seeds == 0:
        return np.array([variance]), np.array([of_images])
    interaction = sum(_variances_of_mean(_interaction(each), strata).sum() for each in (a, b))
    interaction *= (1 / len(a) + 1 / len(b)) / of_seeds
    seed_variance = _seed_variance(a, b)
    # seeds whose means happen to agree have a seed variance of 0, which holds no interaction
    variances = [max(0.0, variance - min(interaction, seed_variance)), seed_variance]
    return np.array(variances), np.array([of_images, of_seeds])


def _interaction(values: Floats) -> Floats:
    """What the means of the seed and of the image do not explain, ``[seeds, N]``."""
    return values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()


def _variances_of_mean(values: Floats, strata: Ints) -> Floats:
    """The share of each stratum in the variance of the mean of each row ``[rows, N]``, ``[rows, strata]``.

    A stratum of one image has no variance of its own: its distance from 0 is taken, which is more.
    """
    sizes = np.bincount(strata)
    shares = []
    for row in values:
        means = np.where(sizes > 1, np.bincount(strata, row) / np.maximum(sizes, 1), 0.0)
        squares = np.bincount(strata, (row - means[strata]) ** 2)
        squares[squares < TINY * np.bincount(strata, row**2)] = 0.0  # rounding
        shares.append(squares * np.where(sizes > 1, sizes / np.maximum(sizes - 1, 1), 1.0) / len(row) ** 2)
    return np.array(shares)


def _p_value(half_width: Callable[[float], float], distance: float) -> float:
    """The p at which an interval of that half-width ends at 0, and at least ``TINY``."""
    if distance == 0:
        return 1.0
    if half_width(TINY) <= distance:
        return TINY
    return float(optimize.brentq(lambda p: half_width(p) - distance, TINY, 1.0))


def _seed_variance(a: Bools | Floats, b: Bools | Floats) -> float:
    """Variance of the difference of the means over seeds, pooled from the mean of each seed."""
    squares = sum(((means - means.mean()) ** 2).sum() for means in (a.mean(1), b.mean(1)))
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

    Args:
        correct: ``[seeds, N]``.
    """
    mean = float(correct.mean())
    low, high = metrics.wilson_interval(mean * correct.shape[1], correct.shape[1])
    low, high = widen_by_seeds(low, high, correct.mean(1))
    return max(0.0, low), min(1.0, high)


def widen_by_seeds(low: float, high: float, of_seeds: Floats) -> tuple[float, float]:
    """Widen the interval of a mean over seeds, which covers the choice of images, by the seed variance.

    The half-widths of the two are added as squares (Zou and Donner 2008).

    Args:
        of_seeds: ``[seeds]`` the value of each seed.
    """
    mean, seeds = float(of_seeds.mean()), len(of_seeds)
    if seeds == 1:
        return low, high
    margin = stats.t.ppf(0.975, seeds - 1) * of_seeds.std(ddof=1) / np.sqrt(seeds)
    return mean - float(np.hypot(mean - low, margin)), mean + float(np.hypot(high - mean, margin))


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
