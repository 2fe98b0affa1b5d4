"""Plots of classes are drawn for any number of classes, as the same bytes, with confused classes together."""

import numpy as np
import pandas as pd
import pytest

from finegrain.evaluation import class_plots, plot_style, prediction_plots
from finegrain.models import outputs

RNG = np.random.default_rng(0)


def random_matrix(classes: int) -> np.ndarray:
    counts = np.diag(np.full(classes, 8))
    counts[RNG.integers(0, classes, classes), RNG.integers(0, classes, classes)] += 1
    return counts


def class_names(classes: int) -> list[str]:
    return [f"Make {i} <b> & $x_1$ Sedan {1990 + i % 30}" for i in range(classes)]


def is_png(content: bytes) -> bool:
    return content.startswith(b"\x89PNG") and len(content) > 5000


@pytest.mark.parametrize("classes", [2, 12, 100])
def test_plots_are_drawn_for_few_and_for_many_classes(classes):
    counts, names = random_matrix(classes), class_names(classes)
    assert is_png(plot_style.render_png(prediction_plots.confusion_plot(counts, names)))
    some_of_many = prediction_plots.confusion_plot(counts, names, 2 * counts.sum(1), total_classes=10_000)
    assert is_png(plot_style.render_png(some_of_many))
    recall = counts.diagonal() / counts.sum(1)
    frame = pd.DataFrame({"class": names, "images": counts.sum(1), "recall": recall})
    assert is_png(plot_style.render_png(class_plots.per_class_recall_plot(frame)))
    splits = [(name, split, n) for name in names for split, n in (("train", 9), ("val", 2), ("test", 3))]
    balance = pd.DataFrame(splits, columns=["class", "split", "images"])
    assert is_png(plot_style.render_png(class_plots.class_balance_plot(balance)))


@pytest.mark.parametrize(("classes", "shown"), [(3, 3), (401, prediction_plots.SHOWN_CLASSES)])
def test_the_confusion_of_a_model_shows_all_classes_or_of_many_those_with_mistakes(classes, shown):
    labels = np.arange(classes)
    logits = np.eye(classes, dtype=np.float32)[np.where(labels == 1, 0, labels)]
    figure = prediction_plots.model_confusion_plot(outputs.from_logits(logits, labels), class_names(classes))
    axes = figure.axes[0]
    assert len(axes.get_yticks()) == shown
    assert ("with the most mistakes" in axes.get_title() + axes.get_title("left")) == (classes > shown)
    shown_names = " ".join(label.get_text() for label in axes.get_yticklabels())
    assert "Make 0 " in shown_names and "Make 1 " in shown_names


def test_the_same_plot_is_the_same_bytes():
    first, second = (
        plot_style.render_png(prediction_plots.confusion_plot(np.eye(4, dtype=int), class_names(4)))
        for _ in range(2)
    )
    assert first == second


def test_the_order_is_a_permutation_with_confused_classes_side_by_side():
    counts = np.diag(np.full(40, 20))
    for a, b in ((3, 31), (8, 22), (0, 39)):
        counts[a, b] = counts[b, a] = 9
    order = prediction_plots.confusion_order(counts).tolist()
    assert sorted(order) == list(range(40))
    for a, b in ((3, 31), (8, 22), (0, 39)):
        assert abs(order.index(a) - order.index(b)) == 1


def test_shares_include_images_that_were_predicted_as_classes_that_are_not_shown():
    counts = np.array([[3, 1], [0, 2]])
    assert prediction_plots.row_shares(counts).tolist() == [[0.75, 0.25], [0, 1]]
    assert prediction_plots.row_shares(counts, np.array([8, 4])).tolist() == [[0.375, 0.125], [0, 0.5]]


def test_a_matrix_that_does_not_fit_its_names_is_rejected():
    with pytest.raises(ValueError, match=r"\[3, 3\] for 3 classes"):
        prediction_plots.confusion_plot(np.eye(2, dtype=int), class_names(3))
