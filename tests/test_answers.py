"""The softmax is stable, its five best are the five best, and blocks do not show."""

import numpy as np
import pytest

from finegrain.models import outputs

RNG = np.random.default_rng(0)


def test_a_hand_worked_case():
    got = outputs.from_logits(np.array([[1000.0, 0.0], [0.0, np.log(3)]], np.float32), np.array([1, 1]))
    assert got.predicted.tolist() == [0, 1] and got.correct.tolist() == [False, True]
    assert got.confidence.tolist() == pytest.approx([1.0, 0.75])
    assert got.loss.tolist() == pytest.approx([1000.0, -np.log(0.75)])  # finite for a sure mistake
    assert got.in_top.all() and got.classes == 2


def test_the_five_most_probable_in_order_whatever_the_block(monkeypatch):
    logits, labels = RNG.normal(size=(300, 20)).astype(np.float32), RNG.integers(0, 20, 300)
    got = outputs.from_logits(logits, labels)
    assert np.array_equal(got.top, np.argsort(-logits, axis=1)[:, :5])
    slow = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    assert got.probabilities == pytest.approx(np.take_along_axis(slow, got.top, 1))
    assert got.loss == pytest.approx(-np.log(slow[np.arange(300), labels]))
    assert got.in_top.tolist() == [label in row for label, row in zip(labels, got.top, strict=True)]
    monkeypatch.setattr(outputs, "BLOCK", 7)
    again = outputs.from_logits(logits, labels)
    assert np.array_equal(again.loss, got.loss) and np.array_equal(again.top, got.top)


def test_a_temperature_changes_how_sure_it_is_and_nothing_else():
    logits, labels = RNG.normal(size=(50, 6)).astype(np.float32), RNG.integers(0, 6, 50)
    plain, cool = outputs.from_logits(logits, labels), outputs.from_logits(logits, labels, temperature=3.0)
    assert np.array_equal(plain.top, cool.top)
    assert (cool.confidence < plain.confidence).all()


@pytest.mark.parametrize("classes", [2, 3, 5, 6])
def test_fewer_than_five_classes(classes):
    got = outputs.from_logits(RNG.normal(size=(30, classes)).astype(np.float32), np.arange(30) % classes)
    assert got.top.shape == (30, min(5, classes))
    assert got.in_top.all() == (classes <= 5)
