"""Plots of runs are drawn for any number of models, with readable labels."""

import numpy as np
import pandas as pd
import pytest

from finegrain.comparison import plots
from finegrain.comparison.formatting import METRIC_NAMES
from finegrain.evaluation import plot_style


def random_history(seed: int) -> pd.DataFrame:
    rng, epochs = np.random.default_rng(seed), np.arange(1, 7)
    columns = {f"{s}_{w}": rng.uniform(0, 1, 6) for s in ("train", "val") for w in ("loss", "top1")}
    phases = {"epoch": epochs, "phase": ["head"] * 2 + ["all"] * 4, "image_size": 64, "lr": 0.1 / epochs}
    return pd.DataFrame({**phases, **columns})


def row(model: str, seconds: float, top1: float, margin: float) -> dict[str, str | float]:
    return {
        "model": model, "seconds": seconds, "test_top1": top1,
        "test_top1_low": top1 - margin, "test_top1_high": top1 + margin,
    }  # fmt: skip


def is_png(content: bytes) -> bool:
    return content.startswith(b"\x89PNG") and len(content) > 5000


@pytest.mark.parametrize("models", [1, 2, 5])
def test_training_curves_and_accuracy_against_time_are_drawn(models):
    histories = {f"model{i}": random_history(i) for i in range(models)}
    assert is_png(plot_style.render_png(plots.training_curves(histories)))
    rows = [row(f"model{i}", 10.0 + i, 0.8, 0.1) for i in range(models)]
    assert is_png(plot_style.render_png(plots.accuracy_vs_time_plot(rows)))


@pytest.mark.parametrize("metric", ["macro_f1", "mean_class_accuracy", "loss"])
def test_the_plots_show_the_metric_that_chooses(metric):
    history = random_history(0)
    history[f"val_{metric}"] = [0.1, 0.4, 0.3, 0.9, 0.05, 0.2]
    curves = plots.training_curves({"net": history}, metric)
    shown = curves.axes[1].lines[1].get_ydata()
    assert shown.tolist() == history["val_top1" if metric == "loss" else f"val_{metric}"].tolist()
    label = curves.axes[3].get_legend().get_texts()[0].get_text()
    best = "0.050 in epoch 5" if metric == "loss" else "90.0\xa0% in epoch 4"
    assert label == f"net: best val {best}"
    point = {"model": "net", "seconds": 10.0, f"test_{metric}": 0.5}
    point |= {f"test_{metric}_low": 0.4, f"test_{metric}_high": 0.7}
    figure = plots.accuracy_vs_time_plot([point], metric)
    assert figure.axes[0].get_ylabel() == f"test {METRIC_NAMES[metric]}"
    assert figure.axes[0].texts[0].get_text() in ("net 0.500", "net 50.0\xa0%")


def test_labels_of_points_are_inside_the_axes_and_do_not_overlap():
    rows = [row(f"model{i}", 10.0 + i / 50, top1, 0.05) for i, top1 in enumerate((0.80, 0.81, 0.5))]
    figure = plots.accuracy_vs_time_plot(rows)
    axes = figure.axes[0]
    boxes = [super(type(text), text).get_window_extent() for text in axes.texts]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    lines = [line.get_window_extent() for line in axes.lines]
    assert not any(box.overlaps(line) for box in boxes for line in lines)
    frame = axes.get_window_extent()
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)


def test_a_phase_that_was_solved_shows_no_learning_rate():
    history = random_history(0).assign(phase=["tune"] * 5 + ["solve"], lr=[0.1, 0.2, 0.1, 0.05, 0.0, 0.0])
    shown = plots.training_curves({"net": history}).axes[2].lines[0].get_ydata()
    assert shown[:5].tolist() == [0.1, 0.2, 0.1, 0.05, 0.0] and np.isnan(shown[5])
    solved = plots.training_curves({"net": history[5:]}).axes[2]
    assert not solved.axison and solved.get_title("left") == ""


def test_save_png_creates_the_folder_and_the_file(project):
    plot_style.save_png(plots.training_curves({"": random_history(0)}), project / "a" / "b.png")
    assert is_png((project / "a" / "b.png").read_bytes())


def test_the_lr_range_plot_is_limited_to_the_decrease_of_the_loss():
    lrs = [10.0 ** (i / 10 - 6) for i in range(70)]
    # two steps far off, a plateau, a decrease, a divergence
    smoothed = [
        2.0,
        4.0,
        *[5.0] * 30,
        *[5.0 - 0.1 * i for i in range(20)],
        *[3.0 * 1.3**i for i in range(18)],
    ]
    losses = [loss + 0.2 * (-1) ** i for i, loss in enumerate(smoothed)]
    points = pd.DataFrame({"lr": lrs, "loss": losses, "smoothed_loss": smoothed})
    figure = plots.lr_range_plot("all", points, {"steepest": 1e-3, "valley": 3e-3}, 0.01)
    low, high = figure.axes[0].get_ylim()
    assert low < 3.0 and 5.0 < high < 8
    assert figure.axes[0].get_title(loc="left") == "LR range test before phase all"
    assert is_png(plot_style.render_png(figure))
    assert is_png(plot_style.render_png(plots.lr_range_plot("$a", points[:1], {}, 0.01)))


def test_the_learning_curve_continues_the_fall_of_the_error():
    """From 40 to 20 % error with twice the images, so 10 % with twice as many again."""
    curve = [{"images": 100, "top1": 0.6}, {"images": 200, "top1": 0.8}]
    axes = plots.learning_curve_plot(curve).axes[0]
    assert axes.lines[1].get_xdata().tolist() == [200, 400]
    assert axes.lines[1].get_ydata().tolist() == pytest.approx([0.8, 0.9])
    for short in (curve[:1], [curve[1], curve[0] | {"images": 300}]):  # one point; a curve that falls
        figure = plots.learning_curve_plot(short)
        assert len(figure.axes[0].lines) == 1 and is_png(plot_style.render_png(figure))
