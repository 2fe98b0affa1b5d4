"""Metrics against hand-worked cases and slow obvious computations."""

import warnings
from collections import Counter

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    top_k_accuracy_score,
)

from finegrain.evaluation import metrics
from finegrain.models import outputs
from finegrain.models.outputs import Predictions


def random_predictions(n: int, classes: int, seed: int = 0, shift: float = 1.5) -> Predictions:
    """Predictions of a network that prefers the true class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += shift
    return outputs.from_logits(logits.astype(np.float32), labels)


def test_metrics_of_a_hand_worked_case():
    # three classes, truth 0 0 1 2; predictions 0 1 1 0
    probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]])
    got = metrics.compute_metrics(
        outputs.from_logits(np.log(probabilities).astype(np.float32), np.array([0, 0, 1, 2]))
    )
    assert got["top1"] == 0.5
    assert got["top5"] == 1.0
    assert got["mean_class_accuracy"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert got["macro_f1"] == pytest.approx((0.5 + 2 / 3 + 0) / 3)
    assert got["loss"] == pytest.approx(-np.log([0.7, 0.3, 0.8, 0.2]).mean())
    assert got["ece"] == pytest.approx((0.3 + 0.6 + 0.2 + 0.5) / 4)


@pytest.mark.parametrize("classes", [2, 5, 30])
def test_metrics_equal_scikit_learn_s(classes):
    """With 40 images of 30 classes, some classes have no image and some are never predicted."""
    rng = np.random.default_rng(1)
    labels, logits = rng.integers(0, classes, 40), rng.normal(size=(40, classes)).astype(np.float32)
    got, all_classes = metrics.compute_metrics(outputs.from_logits(logits, labels)), np.arange(classes)
    predicted, p = logits.argmax(1), softmax(logits.astype(float), axis=1)
    assert got["top1"] == pytest.approx(accuracy_score(labels, predicted))
    f1 = f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    assert got["macro_f1"] == pytest.approx(f1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a predicted class without images
        assert got["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert got["loss"] == pytest.approx(log_loss(labels, p, labels=all_classes))
    if classes > 5:
        assert got["top5"] == pytest.approx(top_k_accuracy_score(labels, p, k=5, labels=all_classes))


def test_a_weight_counts_an_image_so_many_times():
    some, weights = random_predictions(200, 8), np.random.default_rng(2).integers(0, 4, 200)
    repeats = np.repeat(np.arange(200), weights)
    repeated = Predictions(
        some.labels[repeats],
        some.top_classes[repeats],
        some.top_probabilities[repeats],
        some.loss[repeats],
        some.num_classes,
    )
    assert metrics.compute_metrics(some, weights) == pytest.approx(metrics.compute_metrics(repeated))


def test_the_bootstrap_equals_a_loop_over_samples():
    some = random_predictions(60, 4)
    rng = np.random.default_rng(5)
    means = [some.loss[rng.integers(0, 60, 60)].mean() for _ in range(500)]
    got = metrics.bootstrap(some, metrics.compute_metrics, seed=5, draws=500)["loss"]
    assert got == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))))


def test_intervals_cover_the_truth_in_about_95_of_100_samples():
    """The true value is that of 20,000 images; each sample has 200 of them."""
    population = random_predictions(20_000, 6)
    truth = metrics.compute_metrics(population)
    rng, hits = np.random.default_rng(3), Counter()
    samples = 120
    for seed in range(samples):
        pick = rng.integers(0, len(population), 200)
        part = Predictions(
            population.labels[pick],
            population.top_classes[pick],
            population.top_probabilities[pick],
            population.loss[pick],
            population.num_classes,
        )
        intervals = metrics.bootstrap(part, metrics.compute_metrics, seed, draws=200)
        intervals["top1"] = metrics.wilson_interval(int(part.correct.sum()), len(part))
        hits.update(name for name, (low, high) in intervals.items() if low <= truth[name] <= high)
    for name in ("top1", "loss", "macro_f1", "mean_class_accuracy"):
        assert 0.90 <= hits[name] / samples <= 0.99, (name, hits[name])


def test_every_metric_lies_in_its_interval():
    some = random_predictions(300, 8)
    values, intervals = metrics.compute_metrics(some), metrics.confidence_intervals(some)
    assert intervals.keys() == values.keys()
    assert all(intervals[name][0] <= values[name] <= intervals[name][1] for name in values if name != "ece")
    certain = outputs.from_logits((np.eye(5) * 30).astype(np.float32), np.arange(5))
    assert metrics.confidence_intervals(certain)["top1"][0] < 0.6  # five of five correct proves little


def test_wilson_against_the_closed_formula():
    z, n, p = 1.959963984540054, 50, 0.9
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert metrics.wilson_interval(45, 50) == pytest.approx((center - half, center + half))
    assert metrics.wilson_interval(50, 50)[1] == 1.0 and metrics.wilson_interval(0, 50)[0] == 0.0


@pytest.mark.parametrize("correct", [0, 1, 17, 36, 37])
def test_wilson_against_scipy_s(correct):
    theirs = binomtest(correct, 37).proportion_ci(0.95, method="wilson")
    assert metrics.wilson_interval(correct, 37) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_confusion_matrix_and_most_confused_pairs():
    labels, predicted = np.array([0, 0, 0, 1, 2]), np.array([0, 1, 1, 1, 0])
    matrix = metrics.confusion_matrix(labels, predicted, np.arange(4))
    assert matrix.tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    pairs = metrics.confused_pairs(labels, predicted, ["a", "b", "c", "d"], most=10)
    assert pairs == [("a", "b", 2, 3), ("c", "a", 1, 1)]
    assert metrics.confused_pairs(labels, labels, ["a", "b", "c"], most=10) == []
    images, recall = metrics.per_class_recall(labels, predicted, 4)
    assert images.tolist() == [3, 1, 1, 0] and recall.tolist() == pytest.approx([1 / 3, 1, 0, 0])


def test_of_many_classes_those_with_the_most_mistakes_are_shown():
    """A matrix of all pairs would have 10^8 cells, and its plot 10^10 pixels."""
    count = 10_000
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(count), 3)
    predicted = labels.copy()
    predicted[rng.choice(len(labels), 500, replace=False)] = 77
    shown = metrics.most_confused_classes(labels, predicted, count, 100)
    assert len(shown) == 100 and 77 in shown and (np.diff(shown) > 0).all()
    mistaken = {label for label, other in zip(labels, predicted, strict=True) if label != other}
    assert set(shown.tolist()) - {77} <= mistaken
    matrix = metrics.confusion_matrix(labels, predicted, shown)
    column = shown.tolist().index(77)
    assert matrix.shape == (100, 100) and matrix.sum() == 300
    assert matrix[:, column].sum() == matrix.sum() - matrix.diagonal().sum() + 3
    names = [f"class {number}" for number in range(count)]
    pairs = metrics.confused_pairs(labels, predicted, names, most=5)
    assert [pair[1] for pair in pairs] == ["class 77"] * 5 and pairs[0][2] >= pairs[-1][2]
