"""Predictions equal a slow softmax, in chunks of any size."""

import numpy as np
import pytest

from finegrain.models import outputs

RNG = np.random.default_rng(0)


def random_logits(n: int, classes: int) -> np.ndarray:
    return RNG.normal(size=(n, classes)).astype(np.float32)


def test_a_hand_computed_case():
    found = outputs.from_logits(np.array([[1000.0, 0.0], [0.0, np.log(3)]], np.float32), np.array([1, 1]))
    assert found.predicted.tolist() == [0, 1] and found.correct.tolist() == [False, True]
    assert found.confidence.tolist() == pytest.approx([1.0, 0.75])
    assert found.loss.tolist() == pytest.approx([1000.0, -np.log(0.75)])  # finite where p underflows to 0
    assert found.correct_in_top5.all() and found.num_classes == 2


def test_the_five_most_probable_classes_in_order_whatever_the_chunk_size(monkeypatch):
    logits, labels = random_logits(300, 20), RNG.integers(0, 20, 300)
    found = outputs.from_logits(logits, labels)
    assert np.array_equal(found.top_classes, np.argsort(-logits, axis=1)[:, :5])
    slow = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    assert found.top_probabilities == pytest.approx(np.take_along_axis(slow, found.top_classes, 1))
    assert found.loss == pytest.approx(-np.log(slow[np.arange(300), labels]))
    in_top5 = [label in row for label, row in zip(labels, found.top_classes, strict=True)]
    assert found.correct_in_top5.tolist() == in_top5
    monkeypatch.setattr(outputs, "CHUNK_ROWS", 7)
    again = outputs.from_logits(logits, labels)
    assert np.array_equal(again.loss, found.loss) and np.array_equal(again.top_classes, found.top_classes)


def test_a_temperature_changes_the_confidence_and_no_class():
    logits, labels = random_logits(50, 6), RNG.integers(0, 6, 50)
    plain, scaled = outputs.from_logits(logits, labels), outputs.from_logits(logits, labels, temperature=3.0)
    assert np.array_equal(plain.top_classes, scaled.top_classes)
    assert (scaled.confidence < plain.confidence).all()


@pytest.mark.parametrize("classes", [2, 3, 5, 6])
def test_fewer_than_five_classes(classes):
    found = outputs.from_logits(random_logits(30, classes), np.arange(30) % classes)
    assert found.top_classes.shape == (30, min(5, classes))
    assert found.correct_in_top5.all() == (classes <= 5)
