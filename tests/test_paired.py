"""Differences between models: against hand-worked cases, and how often they are called real by simulation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from verdicts import called_real, trainings

from finegrain.comparison import significance
from finegrain.comparison.significance import Comparison


def test_of_one_seed_only_the_images_they_disagree_on_count():
    a = np.array([[True] * 90 + [True] * 8 + [False] * 2])
    b = np.array([[True] * 90 + [False] * 8 + [True] * 2])
    found = significance.compare(a, b)
    # 8 against 2 of 10 fair coins: 2 * (1 + 10 + 45) / 1024
    assert found.p_value == pytest.approx(2 * 56 / 1024)
    assert found.difference == pytest.approx(0.06) and found.low < 0.06 < found.high
    assert found.verdict == "within noise" and replace(found, p_value=0.01).verdict == "really better"
    back = significance.compare(b, a)
    assert back.difference == -found.difference and back.p_value == found.p_value


def test_reverse_is_the_other_model_s_view():
    assert Comparison(0.1, 0.05, 0.15, 0.01).reverse() == Comparison(-0.1, -0.15, -0.05, 0.01)
    assert Comparison(0.1, 0.05, 0.15, 0.01).reverse().verdict == "really worse"


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_difference_of_equal_answers_is_exactly_none(seeds):
    right = np.array([[True, False, True]] * seeds)
    assert significance.compare(right, right) == Comparison(0.0, 0.0, 0.0, 1.0)


def test_several_seeds_by_hand():
    """Eight images, two seeds against three; every term written out."""
    a = np.array([[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]], bool)  # 6/8, 5/8
    b = np.array([[1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]], bool)
    per_image = np.array([0, 0, 1 - 2 / 3, 1 - 1 / 3, 1, 1 / 2, 0, 0])
    of_images = per_image.var(ddof=1) / 8
    # spread: (1/16)^2 * 2 = 1/128 of a, (1/8)^2 * 2 = 1/32 of b; 3 degrees of freedom together
    of_seeds = (1 / 128 + 1 / 32) / 3 * (1 / 2 + 1 / 3)
    found = significance.compare(a, b)
    assert found.difference == pytest.approx(11 / 16 - 3 / 8)
    # what is left of each answer after its seed's and its image's means: one seed's luck with one image
    luck = 0.0
    for right in (a, b):
        for seed in right:
            for image in range(8):
                rest = seed[image] - right[:, image].mean() - seed.mean() + right.mean()
                luck += rest**2 / 7 / 3 * (1 / 2 + 1 / 3) / 8
    # Student's t of 7 and of 3 degrees of freedom at 97.5 %
    half = np.sqrt(2.3646243**2 * (of_images - luck) + 3.1824463**2 * of_seeds)
    assert (found.difference - found.low, found.high - found.difference) == pytest.approx((half, half))
    p = found.p_value
    ends = stats.t.isf(p / 2, 7) ** 2 * (of_images - luck) + stats.t.isf(p / 2, 3) ** 2 * of_seeds
    assert np.sqrt(ends) == pytest.approx(found.difference)


def test_without_noise_of_images_several_seeds_are_the_two_sample_t_test():
    """Every image is as the others: only the seeds differ, and all images at once."""
    a, b = np.array([[True] * 100] * 2 + [[False] * 100]), np.array([[False] * 100] * 2 + [[True] * 100])
    theirs = stats.ttest_ind(a.mean(1), b.mean(1))
    assert significance.compare(a, b).p_value == pytest.approx(theirs.pvalue)


def test_a_model_that_is_always_right_against_one_that_never_is():
    right = np.ones((2, 50), bool)
    assert significance.compare(right, ~right) == Comparison(1.0, 1.0, 1.0, significance.TINY)


def test_seeds_that_happen_to_agree_leave_the_noise_of_the_images():
    """23 and 22 of 24 in both seeds each, with other images wrong: one image is no sure difference."""
    a, b = np.ones((2, 24), bool), np.ones((2, 24), bool)
    a[0, 0] = a[1, 1] = False
    b[0, 2:4] = b[1, 4:6] = False
    found = significance.compare(a, b)
    assert found.low < 0 < found.high and found.verdict == "within noise"


def test_holm_is_the_step_down_correction():
    def of(*p_values: float) -> list[float]:
        return [c.p_value for c in significance.holm_corrected([Comparison(0, 0, 0, p) for p in p_values])]

    assert of(0.01, 0.04, 0.03) == pytest.approx([0.03, 0.06, 0.06])
    assert of(0.9, 0.8) == pytest.approx([1.0, 1.0])
    assert of() == []


def test_few_images_of_one_seed_are_mcnemar_s_and_of_several_also_the_t_test():
    a, b = np.array([[1, 1, 1, 1, 1, 1, 0, 1]], bool), np.array([[0, 0, 0, 0, 0, 0, 1, 1]], bool)
    # six against one of seven fair coins
    assert significance.exact_p(a, b) == pytest.approx(2 * (1 + 7) / 2**7)
    assert significance.exact_p(a, a) == 1.0
    # the same images twice: seeds that agree leave the images to chance
    assert significance.exact_p(a.repeat(2, 0), b.repeat(3, 0)) == pytest.approx(2 * 8 / 2**7)
    # ten images that all gain by the luck of one seed: 2 / 2^10 of the images, but not of the seeds
    lucky = np.array([[False] * 10, [False] * 10, [True] * 10])
    never = np.zeros((3, 10), bool)
    assert significance.exact_p(lucky, never) == pytest.approx(stats.ttest_ind([0, 0, 1], [0, 0, 0]).pvalue)
    sure = np.array([[True] * 10, [True] * 10, [True] * 9 + [False]])
    assert significance.exact_p(sure, never) == pytest.approx(2 / 2**10)


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.0), (2, 0.15), (3, 0.15)])
def test_of_few_images_no_more_than_5_in_100_are_called_beyond_chance(seeds, spread):
    """Ten images of a class that some trainings happen to learn better than others."""
    rng, alarms = np.random.default_rng(15), 0
    for _ in range(1000):
        ease = rng.normal(size=10)
        a, b = (trainings(rng, ease, 0.6, seeds, spread) for _ in range(2))
        alarms += significance.exact_p(a, b) < significance.SIGNIFICANCE
    assert alarms <= 55


def test_an_interval_ends_at_100_points():
    a, b = np.array([[True] * 9 + [False]]), np.array([[True] * 10, [False] * 10])
    found = significance.compare(a, b)
    assert (found.low, found.high) == (-1.0, 1.0) and found.verdict == "within noise"


@pytest.mark.parametrize("gain", [0.0, 0.05])
@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.0), (3, 0.01)])
def test_of_100_pairs_noise_is_called_noise_and_a_gain_of_5_points_real(gain, seeds, spread):
    """At 2,000 test images."""
    real = called_real(gain, (seeds, seeds), (spread, spread), images=2000, pairs=400)
    least = 0.95 if spread == 0 else 0.9  # 94.8 % of 2,000 pairs, benchmarks/verdicts.py
    assert real >= least if gain else real <= 0.07


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (5, 5), (1, 4)])
def test_luck_of_the_seeds_is_not_called_a_gain(seeds):
    """Trainings that differ by 3 points among themselves, which the images alone do not tell."""
    assert called_real(0.0, seeds, (0.03, 0.03), images=1000, pairs=600) <= 0.07


def test_one_seed_each_cannot_see_the_luck_of_the_seeds():
    """Why the report warns where there is only one."""
    assert called_real(0.0, (1, 1), (0.03, 0.03), images=1000, pairs=600) > 0.3


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_of_a_difference_covers_it_in_about_95_of_100_samples(seeds):
    rng, hits = np.random.default_rng(12), 0
    for _ in range(400):
        ease = rng.normal(size=500)
        found = significance.compare(*(trainings(rng, ease, p, seeds, 0.0) for p in (0.8, 0.75)))
        assert found.low <= found.difference <= found.high
        hits += found.low <= 0.05 <= found.high
    assert 0.92 <= hits / 400 <= 0.995


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.02)])
def test_the_interval_of_top1_covers_it_in_about_95_of_100_samples(seeds, spread):
    rng, hits = np.random.default_rng(14), 0
    for _ in range(400):
        low, high = significance.accuracy_interval(trainings(rng, rng.normal(size=400), 0.9, seeds, spread))
        assert 0 <= low < high <= 1
        hits += low <= 0.9 <= high
    assert 0.92 <= hits / 400 <= 0.995


def test_the_interval_of_one_seed_is_wilson_s():
    right = np.arange(40) < 37
    theirs = stats.binomtest(37, 40).proportion_ci(0.95, method="wilson")
    assert significance.accuracy_interval(right[None]) == pytest.approx((theirs.low, theirs.high))
