"""Comparisons of models: hand-worked cases, and how often simulated differences are significant."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from verdicts import share_significant, simulate_runs

from finegrain.comparison import significance
from finegrain.comparison.significance import Comparison


def test_with_one_seed_only_images_on_which_the_models_disagree_count():
    a = np.array([[True] * 90 + [True] * 8 + [False] * 2])
    b = np.array([[True] * 90 + [False] * 8 + [True] * 2])
    found = significance.compare(a, b)
    # 8 against 2 of 10 fair coins: 2 * (1 + 10 + 45) / 1024
    assert found.p_value == pytest.approx(2 * 56 / 1024)
    assert found.difference == pytest.approx(0.06) and found.low < 0.06 < found.high
    assert found.verdict == "within noise" and replace(found, p_value=0.01).verdict == "significantly better"
    back = significance.compare(b, a)
    assert back.difference == -found.difference and back.p_value == found.p_value


def test_reverse_swaps_the_two_models():
    assert Comparison(0.1, 0.05, 0.15, 0.01).reverse() == Comparison(-0.1, -0.15, -0.05, 0.01)
    assert Comparison(0.1, 0.05, 0.15, 0.01).reverse().verdict == "significantly worse"


@pytest.mark.parametrize("seeds", [1, 2])
def test_equal_predictions_have_no_difference_and_p_1(seeds):
    correct = np.array([[True, False, True]] * seeds)
    assert significance.compare(correct, correct) == Comparison(0.0, 0.0, 0.0, 1.0)


def test_several_seeds_by_hand():
    """Eight images, two seeds against three; every term written out."""
    a = np.array([[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]], bool)  # 6/8, 5/8
    b = np.array([[1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]], bool)
    per_image = np.array([0, 0, 1 - 2 / 3, 1 - 1 / 3, 1, 1 / 2, 0, 0])
    image_variance = per_image.var(ddof=1) / 8
    # squares between seeds: (1/16)^2 * 2 = 1/128 of a, (1/8)^2 * 2 = 1/32 of b; 3 degrees of freedom together
    seed_variance = (1 / 128 + 1 / 32) / 3 * (1 / 2 + 1 / 3)
    found = significance.compare(a, b)
    assert found.difference == pytest.approx(11 / 16 - 3 / 8)
    # the interaction of seed and image: what the means of the seed and of the image do not explain
    interaction = 0.0
    for correct in (a, b):
        for seed in correct:
            for image in range(8):
                residual = seed[image] - correct[:, image].mean() - seed.mean() + correct.mean()
                interaction += residual**2 / 7 / 3 * (1 / 2 + 1 / 3) / 8
    # Student's t of 7 and of 3 degrees of freedom at 97.5 %
    half = np.sqrt(2.3646243**2 * (image_variance - interaction) + 3.1824463**2 * seed_variance)
    assert (found.difference - found.low, found.high - found.difference) == pytest.approx((half, half))
    p = found.p_value
    image_part = stats.t.isf(p / 2, 7) ** 2 * (image_variance - interaction)
    seed_part = stats.t.isf(p / 2, 3) ** 2 * seed_variance
    assert np.sqrt(image_part + seed_part) == pytest.approx(found.difference)


def test_without_image_variance_several_seeds_give_the_two_sample_t_test():
    """A seed is correct on all images or on none, so that only the seeds differ."""
    a, b = np.array([[True] * 100] * 2 + [[False] * 100]), np.array([[False] * 100] * 2 + [[True] * 100])
    theirs = stats.ttest_ind(a.mean(1), b.mean(1))
    assert significance.compare(a, b).p_value == pytest.approx(theirs.pvalue)


def test_a_model_that_is_always_correct_against_one_that_never_is():
    """p of 50 coins that all fall on the same side; Wilson's interval of 50 of 50 begins at 92.9 %."""
    correct = np.ones((2, 50), bool)
    found = significance.compare(correct, ~correct)
    assert found.p_value == pytest.approx(2**-49) and (found.difference, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(2 * 0.928652 - 1, abs=1e-5)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("images", [1, 2, 5])
def test_a_few_images_that_all_agree_prove_nothing(seeds, images):
    correct = np.ones((seeds, images), bool)
    found = significance.compare(correct, ~correct)
    assert found.verdict == "within noise" and found.p_value == pytest.approx(min(1, 2 ** (1 - images)))
    assert -1 < found.low < found.difference == found.high == 1.0
    back = significance.compare(~correct, correct)
    assert (back.low, back.high) == (-found.high, -found.low) and back.p_value == found.p_value


@pytest.mark.parametrize("right", [True, False])
def test_one_test_image_and_two_seeds(right):
    """One seed of two is correct on it; the other model is right or wrong in both."""
    a, b = np.array([[True], [False]]), np.full((2, 1), right)
    found = significance.compare(a, b)
    assert found.difference == (-0.5 if right else 0.5) and -1 <= found.low < 0 < found.high <= 1
    assert found.verdict == "within noise" and significance.accuracy_interval(a) == (0.0, 1.0)


def test_seeds_with_equal_top1_leave_the_variance_between_images():
    """23 and 22 of 24 in both seeds each, with other mistakes: one image is no significant difference."""
    a, b = np.ones((2, 24), bool), np.ones((2, 24), bool)
    a[0, 0] = a[1, 1] = False
    b[0, 2:4] = b[1, 4:6] = False
    found = significance.compare(a, b)
    assert found.low < 0 < found.high and found.verdict == "within noise"


def test_holm_is_the_step_down_correction():
    def corrected(*p_values: float) -> list[float]:
        return [c.p_value for c in significance.holm_corrected([Comparison(0, 0, 0, p) for p in p_values])]

    assert corrected(0.01, 0.04, 0.03) == pytest.approx([0.03, 0.06, 0.06])
    assert corrected(0.9, 0.8) == pytest.approx([1.0, 1.0])
    assert corrected() == []


def test_exact_p_is_mcnemar_s_for_one_seed_and_also_the_t_test_for_several():
    a, b = np.array([[1, 1, 1, 1, 1, 1, 0, 1]], bool), np.array([[0, 0, 0, 0, 0, 0, 1, 1]], bool)
    # six against one of seven fair coins
    assert significance.exact_p(a, b) == pytest.approx(2 * (1 + 7) / 2**7)
    assert significance.exact_p(a, a) == 1.0
    # the same seed repeated: where seeds agree, only the images count
    assert significance.exact_p(a.repeat(2, 0), b.repeat(3, 0)) == pytest.approx(2 * 8 / 2**7)
    # ten images that one seed gains: p is 2 / 2^10 for the images, but not for the seeds
    lucky = np.array([[False] * 10, [False] * 10, [True] * 10])
    never = np.zeros((3, 10), bool)
    assert significance.exact_p(lucky, never) == pytest.approx(stats.ttest_ind([0, 0, 1], [0, 0, 0]).pvalue)
    sure = np.array([[True] * 10, [True] * 10, [True] * 9 + [False]])
    assert significance.exact_p(sure, never) == pytest.approx(2 / 2**10)


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (2, 0.15), (3, 0.15)])
def test_exact_p_rejects_no_more_than_5_of_100_pairs_of_equal_recipes(seeds, seed_sd):
    """Ten images of a class that some runs happen to learn better than others."""
    rng, false_alarms = np.random.default_rng(15), 0
    for _ in range(1000):
        ease = rng.normal(size=10)
        a, b = (simulate_runs(rng, ease, 0.6, seeds, seed_sd) for _ in range(2))
        false_alarms += significance.exact_p(a, b) < significance.SIGNIFICANCE
    assert false_alarms <= 55


def test_an_interval_ends_at_100_points():
    a, b = np.array([[True] * 9 + [False]]), np.array([[True] * 10, [False] * 10])
    found = significance.compare(a, b)
    assert (found.low, found.high) == (-1.0, 1.0) and found.verdict == "within noise"


@pytest.mark.parametrize("gain", [0.0, 0.05])
@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 0.01)])
def test_a_gain_of_5_points_is_significant_and_none_is_within_noise(gain, seeds, seed_sd):
    """At 2,000 test images."""
    share = share_significant(gain, (seeds, seeds), (seed_sd, seed_sd), images=2000, pairs=400)
    least = 0.95 if seed_sd == 0 else 0.9  # 94.8 % of 2,000 pairs, benchmarks/verdicts.py
    assert share >= least if gain else share <= 0.07


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (5, 5), (1, 4)])
def test_seed_variance_is_not_taken_for_a_gain(seeds):
    """Runs with a standard deviation of 3 points between seeds, which the images alone do not show."""
    assert share_significant(0.0, seeds, (0.03, 0.03), images=1000, pairs=600) <= 0.07


def test_one_seed_each_cannot_see_the_seed_variance():
    """This is why the report warns where there is only one seed."""
    assert share_significant(0.0, (1, 1), (0.03, 0.03), images=1000, pairs=600) > 0.3


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_of_a_difference_covers_it_in_about_95_of_100_samples(seeds):
    rng, hits = np.random.default_rng(12), 0
    for _ in range(400):
        ease = rng.normal(size=500)
        found = significance.compare(*(simulate_runs(rng, ease, p, seeds, 0.0) for p in (0.8, 0.75)))
        assert found.low <= found.difference <= found.high
        hits += found.low <= 0.05 <= found.high
    assert 0.92 <= hits / 400 <= 0.995


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.02)])
def test_the_interval_of_top1_covers_it_in_about_95_of_100_samples(seeds, seed_sd):
    rng, hits = np.random.default_rng(14), 0
    for _ in range(400):
        low, high = significance.accuracy_interval(
            simulate_runs(rng, rng.normal(size=400), 0.9, seeds, seed_sd)
        )
        assert 0 <= low < high <= 1
        hits += low <= 0.9 <= high
    assert 0.92 <= hits / 400 <= 0.995


def test_the_interval_of_one_seed_is_wilson_s():
    correct = np.arange(40) < 37
    theirs = stats.binomtest(37, 40).proportion_ci(0.95, method="wilson")
    assert significance.accuracy_interval(correct[None]) == pytest.approx((theirs.low, theirs.high))
