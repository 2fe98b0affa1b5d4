"""Charts are drawn at every size, give the same bytes, and put confused classes side by side."""

import numpy as np
import pandas as pd
import pytest

from finegrain.comparison import plots
from finegrain.evaluation import class_plots, plot_style

RNG = np.random.default_rng(0)


def history(seed: int) -> pd.DataFrame:
    rng, epochs = np.random.default_rng(seed), np.arange(1, 7)
    columns = {f"{s}_{w}": rng.uniform(0, 1, 6) for s in ("train", "val") for w in ("loss", "top1")}
    phases = {"epoch": epochs, "phase": ["head"] * 2 + ["all"] * 4, "image_size": 64, "lr": 0.1 / epochs}
    return pd.DataFrame({**phases, **columns})


def matrix(classes: int) -> np.ndarray:
    counts = np.diag(np.full(classes, 8))
    counts[RNG.integers(0, classes, classes), RNG.integers(0, classes, classes)] += 1
    return counts


def names(classes: int) -> list[str]:
    return [f"Make {i} <b> & $x_1$ Sedan {1990 + i % 30}" for i in range(classes)]


def is_png(content: bytes) -> bool:
    return content.startswith(b"\x89PNG") and len(content) > 5000


@pytest.mark.parametrize("models", [1, 2, 5])
def test_curves_and_cost(models):
    histories = {f"model{i}": history(i) for i in range(models)}
    assert is_png(plot_style.render_png(plots.training_curves(histories)))
    rows = [
        {
            "model": f"model{i}",
            "seconds": 10.0 + i,
            "test_top1": 0.8,
            "test_top1_low": 0.7,
            "test_top1_high": 0.9,
        }
        for i in range(models)
    ]
    assert is_png(plot_style.render_png(plots.accuracy_vs_time_plot(rows)))


def test_labels_of_points_stand_within_the_axes_and_apart():
    rows = [
        {"model": f"model{i}", "seconds": 10.0 + i / 50, "test_top1": t, "test_top1_low": t - 0.05,
         "test_top1_high": t + 0.05}
        for i, t in enumerate((0.80, 0.81, 0.5))
    ]  # fmt: skip
    figure = plots.accuracy_vs_time_plot(rows)
    axes = figure.axes[0]
    boxes = [super(type(text), text).get_window_extent() for text in axes.texts]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    frame = axes.get_window_extent()
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)


@pytest.mark.parametrize("classes", [2, 12, 100])
def test_charts_by_class(classes):
    counts = matrix(classes)
    assert is_png(plot_style.render_png(class_plots.confusion_plot(counts, names(classes))))
    assert is_png(
        plot_style.render_png(
            class_plots.confusion_plot(counts, names(classes), 2 * counts.sum(1), of=10_000)
        )
    )
    recall = counts.diagonal() / counts.sum(1)
    frame = pd.DataFrame({"class": names(classes), "images": counts.sum(1), "recall": recall})
    assert is_png(plot_style.render_png(class_plots.per_class_recall_plot(frame)))
    splits = [
        (name, split, n) for name in names(classes) for split, n in (("train", 9), ("val", 2), ("test", 3))
    ]
    balance = pd.DataFrame(splits, columns=["class", "split", "images"])
    assert is_png(plot_style.render_png(class_plots.class_balance_plot(balance)))


def test_the_same_bytes_twice():
    first, second = (
        plot_style.render_png(class_plots.confusion_plot(np.eye(4, dtype=int), names(4))) for _ in range(2)
    )
    assert first == second


def test_the_order_is_a_permutation_with_confused_classes_side_by_side():
    counts = np.diag(np.full(40, 20))
    for a, b in ((3, 31), (8, 22), (0, 39)):
        counts[a, b] = counts[b, a] = 9
    order = class_plots.confusion_order(counts).tolist()
    assert sorted(order) == list(range(40))
    for a, b in ((3, 31), (8, 22), (0, 39)):
        assert abs(order.index(a) - order.index(b)) == 1


def test_shares_are_of_all_images_also_where_some_went_to_classes_that_are_not_shown():
    counts = np.array([[3, 1], [0, 2]])
    assert class_plots._row_shares(counts).tolist() == [[0.75, 0.25], [0, 1]]
    assert class_plots._row_shares(counts, np.array([8, 4])).tolist() == [[0.375, 0.125], [0, 0.5]]


def test_a_matrix_that_does_not_fit_its_names_is_refused():
    with pytest.raises(ValueError, match=r"\[3, 3\] for 3 classes"):
        class_plots.confusion_plot(np.eye(2, dtype=int), names(3))


def test_save_writes_the_file_whole(project):
    plot_style.save_png(plots.training_curves({"": history(0)}), project / "a" / "b.png")
    assert is_png((project / "a" / "b.png").read_bytes())


def test_the_lr_range_figure_is_drawn_for_any_sweep_and_shows_the_fall_of_the_loss():
    rates = [10.0 ** (i / 10 - 6) for i in range(70)]
    # a first batch far off, a plateau, a fall, a divergence
    smoothed = [
        2.0,
        4.0,
        *[5.0] * 30,
        *[5.0 - 0.1 * i for i in range(20)],
        *[3.0 * 1.3**i for i in range(18)],
    ]
    losses = [loss + 0.2 * (-1) ** i for i, loss in enumerate(smoothed)]
    points = pd.DataFrame({"lr": rates, "loss": losses, "smoothed_loss": smoothed})
    figure = plots.lr_range_plot("all", points, {"steepest": 1e-3, "valley": 3e-3}, 0.01)
    low, high = figure.axes[0].get_ylim()
    assert low < 3.0 and 5.0 < high < 8
    assert figure.axes[0].get_title(loc="left") == "LR range test before phase all"
    assert is_png(plot_style.render_png(figure))
    assert is_png(plot_style.render_png(plots.lr_range_plot("$a", points[:1], {}, 0.01)))
