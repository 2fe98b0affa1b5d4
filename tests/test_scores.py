"""Metrics against hand-worked cases and slow obvious computations."""

import numpy as np
import pytest

from finegrain import scores

RNG = np.random.default_rng(0)


def test_softmax_is_stable_and_sums_to_one():
    probabilities = scores.softmax(np.array([[1000.0, 0.0], [0.0, np.log(3)]]))
    assert probabilities.tolist() == [[1.0, 0.0], pytest.approx([0.25, 0.75])]


def test_metrics_of_a_hand_worked_case():
    # three classes, truth 0 0 1 2; predictions 0 1 1 0
    probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]])
    got = scores.metrics(probabilities, np.array([0, 0, 1, 2]))
    assert got["top1"] == 0.5
    assert got["top5"] == 1.0
    assert got["mean_class_accuracy"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert got["macro_f1"] == pytest.approx((0.5 + 2 / 3 + 0) / 3)
    assert got["loss"] == pytest.approx(-np.log([0.7, 0.3, 0.8, 0.2]).mean())
    assert got["top1_low"] < 0.5 < got["top1_high"]


def test_top5_counts_the_five_most_probable():
    probabilities = scores.softmax(RNG.normal(size=(300, 20)))
    labels = RNG.integers(0, 20, 300)
    slow = np.mean([label in np.argsort(-row)[:5] for row, label in zip(probabilities, labels, strict=True)])
    assert scores.metrics(probabilities, labels)["top5"] == pytest.approx(slow)


@pytest.mark.parametrize("classes", [2, 3, 5, 6])
def test_top5_of_few_classes(classes):
    probabilities = scores.softmax(RNG.normal(size=(30, classes)))
    labels = np.arange(30) % classes
    top5 = scores.metrics(probabilities, labels)["top5"]
    assert top5 == 1.0 if classes <= 5 else top5 < 1.0


def test_wilson_against_the_closed_formula():
    z, n, p = 1.959963984540054, 50, 0.9
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert scores.wilson(45, 50) == pytest.approx((centre - half, centre + half))
    assert scores.wilson(50, 50)[1] == 1.0


def test_mcnemar_counts_only_the_images_they_disagree_on():
    a = np.array([True] * 90 + [True] * 8 + [False] * 2)
    b = np.array([True] * 90 + [False] * 8 + [True] * 2)
    # 8 against 2 of 10 fair coins: 2 * (1 + 10 + 45) / 1024
    assert scores.mcnemar(a, b) == pytest.approx(2 * 56 / 1024)
    assert scores.mcnemar(a, a) == 1.0


def test_holm_is_the_step_down_correction():
    assert scores.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert scores.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_confusion_and_its_worst_pairs():
    truth, predicted = np.array([0, 0, 0, 1, 2]), np.array([0, 1, 1, 1, 0])
    matrix = scores.confusion(truth, predicted, np.arange(4))
    assert matrix.tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    pairs = scores.confused_pairs(truth, predicted, ["a", "b", "c", "d"], most=10)
    assert pairs == [("a", "b", 2, 3), ("c", "a", 1, 1)]
    assert scores.confused_pairs(truth, truth, ["a", "b", "c"], most=10) == []
    images, recall = scores.recall(truth, predicted, 4)
    assert images.tolist() == [3, 1, 1, 0] and recall.tolist() == pytest.approx([1 / 3, 1, 0, 0])


def test_of_many_classes_those_of_the_most_mistakes_are_shown():
    """A matrix of all pairs would have 10^8 cells, and its picture 10^10 dots."""
    count = 10_000
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(count), 3)
    predicted = truth.copy()
    predicted[rng.choice(len(truth), 500, replace=False)] = 77
    shown = scores.most_mistaken(truth, predicted, count, 100)
    assert len(shown) == 100 and 77 in shown and (np.diff(shown) > 0).all()
    wrong_of = {true for true, said in zip(truth, predicted, strict=True) if true != said}
    assert set(shown.tolist()) - {77} <= wrong_of
    matrix = scores.confusion(truth, predicted, shown)
    column = shown.tolist().index(77)
    assert matrix.shape == (100, 100) and matrix.sum() == 300
    assert matrix[:, column].sum() == matrix.sum() - matrix.diagonal().sum() + 3
    names = [f"class {number}" for number in range(count)]
    pairs = scores.confused_pairs(truth, predicted, names, most=5)
    assert [pair[1] for pair in pairs] == ["class 77"] * 5 and pairs[0][2] >= pairs[-1][2]
