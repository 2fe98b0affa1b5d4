"""Comparisons by macro-F1, mean class accuracy and loss: values by hand, and how often simulations reject."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score

from finegrain.comparison import chosen_metric, significance
from finegrain.comparison.chosen_metric import Outcomes, compare, interval
from finegrain.models.outputs import Floats

SIZES = np.array([40] * 4 + [12] * 4 + [5] * 4)
"""Test images of each class, as of a set that is unbalanced."""
LABELS = np.repeat(np.arange(len(SIZES)), SIZES)
BY_CLASS = ["macro_f1", "mean_class_accuracy"]


def simulate(
    rng: np.random.Generator, ease: Floats, recall: Floats, seeds: int = 1, seed_sd: float = 0.0
) -> Outcomes:
    """Predictions of several runs of one recipe; images and runs contribute equally to the random error.

    Args:
        ease: ``[N]`` standard normal, shared by all models.
        recall: ``[classes]`` mean over runs.
        seed_sd: standard deviation of the recall of a class between runs.
    """
    drawn = recall + seed_sd * rng.normal(size=(seeds, len(SIZES)))
    threshold = stats.norm.isf(drawn.clip(0.01, 0.99), scale=np.sqrt(2))[:, LABELS]
    correct = ease + rng.normal(size=(seeds, len(LABELS))) > threshold
    other = (LABELS + rng.integers(1, 4, size=correct.shape)) % len(SIZES)
    return Outcomes(LABELS, np.where(correct, LABELS, other), rng.exponential(size=correct.shape) + ~correct)


def equal_pair(rng: np.random.Generator, seeds: int, seed_sd: float) -> tuple[Outcomes, Outcomes]:
    ease, recall = rng.normal(size=len(LABELS)), np.linspace(0.95, 0.6, len(SIZES))
    return simulate(rng, ease, recall, seeds, seed_sd), simulate(rng, ease, recall, seeds, seed_sd)


def outcomes(labels: list[int], *predicted: list[int]) -> Outcomes:
    return Outcomes(np.array(labels), np.array(predicted))


def test_the_values_are_scikit_learn_s_and_the_means_over_the_images():
    found = equal_pair(np.random.default_rng(0), 2, 0.1)[0]
    for seed, predicted in enumerate(found.predicted):
        expected = {
            "macro_f1": f1_score(LABELS, predicted, average="macro"),
            "mean_class_accuracy": balanced_accuracy_score(LABELS, predicted),
            "top1": (LABELS == predicted).mean(),
            "loss": found.losses[seed].mean(),
        }
        for metric, value in expected.items():
            assert found.values(metric)[seed] == pytest.approx(value)
            assert found.by_image(metric)[seed].mean() == pytest.approx(value)


def test_the_value_of_an_image_is_what_the_metric_loses_without_it():
    """The jackknife of macro-F1, of many images: leaving one out changes the metric by 1 / N of its value."""
    labels = np.tile(LABELS, 20)
    rng = np.random.default_rng(1)
    predicted = np.where(rng.uniform(size=len(labels)) < 0.7, labels, rng.integers(0, 12, len(labels)))
    whole = Outcomes(labels, predicted[None])
    by_image, value = whole.by_image("macro_f1")[0], whole.values("macro_f1")[0]
    for image in rng.integers(0, len(labels), 10):
        kept = np.arange(len(labels)) != image
        left = Outcomes(labels[kept], predicted[None, kept]).values("macro_f1")[0]
        assert len(labels) * (value - left) == pytest.approx(by_image[image] - value, abs=0.05)


def test_mean_class_accuracy_with_one_seed_by_hand():
    """Classes of 4 and 2 images; a is right on three and on one of them, b on one and on one."""
    labels = [0, 0, 0, 0, 1, 1]
    a, b = outcomes(labels, [0, 0, 0, 1, 1, 0]), outcomes(labels, [0, 1, 1, 1, 0, 1])
    found = compare("mean_class_accuracy", a, b)
    assert found.difference == pytest.approx((3 / 4 - 1 / 4) / 2)
    # gains 0, 1, 1, 0 and 1, -1: the variances of the two mean gains, over 4 for the mean of two classes
    variances = np.var([0, 1, 1, 0], ddof=1) / 4 / 4, np.var([1, -1], ddof=1) / 2 / 4
    degrees = sum(variances) ** 2 / (variances[0] ** 2 / 3 + variances[1] ** 2 / 1)
    margin = stats.t.isf(0.025, degrees) * np.sqrt(sum(variances))
    assert (found.low, found.high) == pytest.approx((max(-1, 0.25 - margin), min(1, 0.25 + margin)))
    # of the 16 exchanges of the four images that differ, those at least as far from 0
    gains = np.array([1 / 4, 1 / 4, 1 / 2, -1 / 2])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1)
    exact = (np.abs(gains @ signs) >= 0.5 - 1e-9).mean()
    assert found.p_value == pytest.approx(exact, abs=0.04) and found.verdict == "within noise"


@pytest.mark.parametrize("metric", ["top1", "macro_f1", "mean_class_accuracy", "loss"])
def test_b_with_a_is_a_with_b_reversed(metric):
    a, b = equal_pair(np.random.default_rng(3), 2, 0.1)
    found, back = compare(metric, a, b), compare(metric, b, a)
    assert back.reverse() == found or np.allclose(
        [back.difference, back.low, back.high], [-found.difference, -found.high, -found.low]
    )
    assert back.p_value == pytest.approx(found.p_value)


def test_a_lower_loss_is_better():
    rng = np.random.default_rng(0)
    a = simulate(rng, rng.normal(size=len(LABELS)), np.full(12, 0.7))
    worse = Outcomes(LABELS, a.predicted, a.losses + rng.uniform(size=a.losses.shape))
    found = compare("loss", a, worse)
    assert found.high < 0 and found.verdict == "significantly better"
    assert found.reverse().verdict == compare("loss", worse, a).verdict == "significantly worse"


@pytest.mark.parametrize("metric", BY_CLASS)
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_few_images_that_all_agree_prove_nothing(metric, seeds):
    labels, wrong = [0, 0, 1, 1], [1, 1, 0, 0]
    found = compare(metric, outcomes(labels, *[labels] * seeds), outcomes(labels, *[wrong] * seeds))
    assert found.difference == 1 and found.low < 1 and found.verdict == "within noise"
    same = compare(metric, outcomes(labels, *[labels] * seeds), outcomes(labels, *[labels] * seeds))
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize("metric", BY_CLASS)
def test_one_test_image(metric):
    found = compare(metric, outcomes([0], [0]), outcomes([0], [1]))
    assert found.verdict == "within noise" and found.difference == 1


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 0.1)])
@pytest.mark.parametrize("metric", [*BY_CLASS, "loss"])
def test_equal_recipes_differ_significantly_in_about_5_of_100_pairs(metric, seeds, seed_sd, monkeypatch):
    monkeypatch.setattr(chosen_metric, "DRAWS", 99)
    rng = np.random.default_rng(5)
    found = [compare(metric, *equal_pair(rng, seeds, seed_sd)) for _ in range(200)]
    assert np.mean([each.verdict != "within noise" for each in found]) <= 0.09
    assert 0.91 <= np.mean([each.low <= 0 <= each.high for each in found])


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.05)])
@pytest.mark.parametrize("metric", BY_CLASS)
def test_the_interval_of_a_difference_covers_it_in_about_95_of_100_samples(
    metric, seeds, seed_sd, monkeypatch
):
    """A model that is better in the small classes and worse in the large ones."""
    monkeypatch.setattr(chosen_metric, "DRAWS", 1)
    rng, found = np.random.default_rng(6), []
    better, plain = np.full(12, 0.8), np.array([0.85] * 4 + [0.7] * 4 + [0.5] * 4)
    for _ in range(300):
        ease = rng.normal(size=len(LABELS))
        found.append(compare(metric, *(simulate(rng, ease, p, seeds, seed_sd) for p in (better, plain))))
    truth = np.mean([each.difference for each in found])
    assert 0.1 < truth < 0.15
    assert 0.91 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.995


def test_a_gain_in_small_classes_is_seen_by_macro_f1_and_not_by_top1():
    rng = np.random.default_rng(7)
    better, plain = np.full(12, 0.8), np.array([0.84] * 4 + [0.6] * 4 + [0.4] * 4)
    ease = rng.normal(size=len(LABELS))
    a, b = (simulate(rng, ease, recall, 3) for recall in (better, plain))
    assert compare("macro_f1", a, b).verdict == "significantly better"
    assert compare("top1", a, b).verdict == "within noise"


@pytest.mark.parametrize("metric", [*BY_CLASS, "loss"])
def test_the_interval_of_one_model_covers_its_metric(metric, monkeypatch):
    monkeypatch.setattr(chosen_metric, "DRAWS", 100)
    rng, found = np.random.default_rng(8), []
    for _ in range(120):
        run = simulate(rng, rng.normal(size=len(LABELS)), np.linspace(0.9, 0.6, 12), 2, 0.03)
        found.append((run.values(metric).mean(), *interval(metric, run)))
    truth = np.mean([value for value, _, _ in found])
    assert all(low <= value <= high for value, low, high in found)
    assert 0.89 <= np.mean([low <= truth <= high for _, low, high in found])


def test_top1_is_compared_as_before():
    a, b = equal_pair(np.random.default_rng(9), 2, 0.1)
    assert compare("top1", a, b) == significance.compare(a.correct, b.correct)
    assert interval("top1", a) == significance.accuracy_interval(a.correct)


def test_classes_have_the_same_numbers_for_all_models():
    names = np.array(["owl", "cat", "owl"], object)
    found = Outcomes.from_names(names, np.array([["cat", "cat", "dog"]], object))
    assert found.labels.tolist() == [0, 1, 0] and found.predicted.tolist() == [[1, 1, 2]]
