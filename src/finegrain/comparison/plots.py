"""Plots of training runs: training curves, LR range test, and accuracy against time.

Top-1 and other shares are in [0, 1] and shown in percent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from finegrain.comparison.formatting import METRIC_NAMES, metric_value, percent
from finegrain.comparison.next_steps import top1_of_twice_the_images
from finegrain.evaluation.plot_style import COLORS, DPI, GRAY, MARKERS, percent_ticks, shorten, styled

_Style = dict[str, Any]
_TRAIN_LINE: _Style = {"lw": 1.2, "ls": (0, (4, 2))}


@styled
def training_curves(histories: Mapping[str, pd.DataFrame], choose_by: str = "top1") -> Figure:
    """Loss, accuracy and learning rate by epoch, with a dotted vertical line after each phase.

    Args:
        histories: maps each model to one row per epoch with epoch (from 1, counted over phases), phase,
            image_size, lr, train_loss, train_top1, val_loss, val_top1 and the metric that chooses. NaN is
            left out.
        choose_by: the metric that chooses the epoch: its validation is shown in place of top-1.
    """
    accuracy = "top1" if choose_by == "loss" else choose_by
    name = f"Validation {METRIC_NAMES[accuracy]}, training top-1"
    titles = ("Loss", "Top-1 accuracy" if accuracy == "top1" else name, "Learning rate")
    figure = Figure((11, 7.2), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(2.4, 1), hspace=0.06)
    loss, top1, lr, legend = (figure.add_subplot(grid[i, j]) for i in (0, 1) for j in (0, 1))
    for axes, title in zip((loss, top1, lr), titles, strict=True):
        axes.set_title(title, pad=22 if axes is lr else None)
        axes.set_xlabel("epoch")
        axes.set_xlim(0.5, max(history["epoch"].max() for history in histories.values()) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    top1.yaxis.set_major_formatter(percent_ticks())
    styles = _model_styles(histories)
    for model, history in histories.items():
        style = styles[model] | _sparse_markers(history)
        for axes, train, val in ((loss, "train_loss", "val_loss"), (top1, "train_top1", f"val_{accuracy}")):
            axes.plot(history["epoch"], history[train], **style, **_TRAIN_LINE, alpha=0.75)
            axes.plot(history["epoch"], history[val], **style, lw=1.9)
    _draw_learning_rates(lr, histories, styles)
    _draw_phases(list(histories.values()), lr, (loss, top1, lr))
    _draw_curve_legend(legend, histories, styles, choose_by)
    return figure


def _draw_learning_rates(
    axes: Axes, histories: Mapping[str, pd.DataFrame], styles: Mapping[str, _Style]
) -> None:
    """Draw the learning rate of each model, or one gray line if several models share the schedule.

    A phase without one, as its head was solved, is left empty.
    """
    rates = {
        model: history["lr"].where(history.groupby("phase")["lr"].transform("max") > 0)
        for model, history in histories.items()
    }
    shared = len({tuple(history["lr"]) for history in histories.values()}) == 1 < len(histories)
    if shared:
        model, history = next(iter(histories.items()))
        axes.plot(history["epoch"], rates[model], color=GRAY, lw=1.6, marker=".")
        axes.set_title("Learning rate (the same for all)", pad=22)
    else:
        for model, history in histories.items():
            style = styles[model] | _sparse_markers(history)
            axes.plot(history["epoch"], rates[model], **style, lw=1.6)
    if all(rate.isna().all() for rate in rates.values()):
        axes.axis("off")
        axes.set_title("")
    axes.set_ylim(bottom=0)


def _draw_curve_legend(
    axes: Axes, histories: Mapping[str, pd.DataFrame], styles: Mapping[str, _Style], choose_by: str
) -> None:
    """Fill a panel with the legend: each model with its best validation, and the two line styles."""
    handles = []
    for model, history in histories.items():
        values, label = history[f"val_{choose_by}"], model or "validation"
        if values.notna().any():
            best = int(values.argmin() if choose_by == "loss" else values.argmax())
            shown = metric_value(choose_by, values.iloc[best], 1)
            label += f": best val {shown} in epoch {history['epoch'].iloc[best]}"
        handles.append(Line2D([], [], **styles[model], lw=1.9, label=label))
    handles += [Line2D([], [], color=GRAY, lw=1.9, label="validation: solid")]
    handles += [Line2D([], [], color=GRAY, **_TRAIN_LINE, label="training: dashed")]
    axes.axis("off")
    axes.legend(handles=handles, loc="center left", fontsize=9.5, labelspacing=0.5, handlelength=2.6)


def _model_styles(models: Mapping[str, Any] | Sequence[str]) -> dict[str, _Style]:
    """Color and marker of each model; they do not depend on the order of the models."""
    return {
        model: {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, model in enumerate(sorted(models))
    }


def _sparse_markers(history: pd.DataFrame) -> _Style:
    """A marker at about every tenth of the epochs."""
    return {"markersize": 4, "markevery": max(1, len(history) // 10)}


def _draw_phases(histories: Sequence[pd.DataFrame], named: Axes, panels: Sequence[Axes]) -> None:
    """Draw a line after each phase in all panels, and the name of each phase above one of them."""
    phases: dict[tuple[str, int, int], None] = {}
    for history in histories:
        phase_number = (history["phase"] != history["phase"].shift()).cumsum()
        for _, part in history.groupby(phase_number.to_numpy()):
            first, last = part["image_size"].iloc[0], part["image_size"].iloc[-1]
            sizes = f"{last} px" if first == last else f"{first} to {last} px"
            label = f"{part['phase'].iloc[0]}, {sizes}"
            phases[label, int(part["epoch"].iloc[0]), int(part["epoch"].iloc[-1])] = None
    total = max(last for _, _, last in phases)
    for end in sorted({last for _, _, last in phases if last < total}):
        for axes in panels:
            axes.axvline(end + 0.5, color=GRAY, lw=0.8, ls=":")
    firsts = [first for _, first, _ in phases]
    if len(set(firsts)) < len(firsts):  # the models differ in their phases, so that names would overlap
        return
    for label, first, last in phases:
        share = (last - first + 1) / total
        fits = int(share * 72)  # the panel is 72 letters of this size wide
        named.text(
            (first + last) / 2,
            1.02,
            shorten(label, fits) if fits >= 5 else "",
            fontsize=8,
            color=GRAY,
            ha="center",
            va="bottom",
            transform=named.get_xaxis_transform(),
            parse_math=False,
        )


@styled
def lr_range_plot(
    phase: str, points: pd.DataFrame, suggestions: Mapping[str, float], chosen: float
) -> Figure:
    """Loss against learning rate on a log scale, with the suggested learning rates and the chosen one.

    Args:
        phase: name of the phase.
        points: lr, loss and smoothed_loss of each step of the test; at least one.
        suggestions: maps the name of each method to the learning rate that it suggests.
        chosen: the learning rate that the phase was trained with.
    """
    figure = Figure((9, 5.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    lrs, smoothed = points["lr"].to_numpy(), points["smoothed_loss"].to_numpy()
    axes.plot(lrs, points["loss"], color="#B8C4CC", lw=1, label="loss of each batch")
    axes.plot(lrs, smoothed, color=COLORS[0], lw=2, label="smoothed")
    for (name, lr), color, marker in zip(suggestions.items(), COLORS[1:], MARKERS[1:], strict=False):
        height = smoothed[np.abs(lrs - lr).argmin()]
        axes.plot([lr], [height], marker, color=color, ms=9, label=f"{name}: {lr:.2g}")
    axes.axvline(chosen, color=GRAY, lw=1.2, ls=(0, (4, 2)), label=f"chosen: {chosen:.2g}")
    axes.set_xscale("log")
    # limits without the first steps, whose averages jump, and without a loss that diverges
    settled = smoothed[len(smoothed) // 5 :]
    plateau, low = float(np.median(settled[: len(settled) // 2 + 1])), float(settled.min())
    height = max(plateau - low, 0.05 * abs(plateau))
    axes.set_ylim(low - 0.6 * height, plateau + 1.2 * height)
    axes.set_title(f"LR range test before phase {phase}", parse_math=False)
    axes.set_xlabel("peak learning rate")
    axes.set_ylabel("training loss")
    axes.legend()
    return figure


@styled
def learning_curve_plot(curve: Sequence[Mapping[str, Any]]) -> Figure:
    """Top-1 on images that were not trained on against the number of training images, and with twice as many.

    Args:
        curve: ``images`` and ``top1`` of each part of the training images, at least one.
    """
    figure = Figure((9, 4.6), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    images, top1 = [p["images"] for p in curve], [p["top1"] for p in curve]
    axes.plot(images, top1, color=COLORS[0], marker="o", lw=2)
    for x, y in zip(images, top1, strict=True):
        axes.annotate(percent(y, 1), (x, y), (9, -5), textcoords="offset points", va="top", fontsize=9)
    if (more := top1_of_twice_the_images(curve)) is not None:
        axes.plot([images[-1], 2 * images[-1]], [top1[-1], more], color=GRAY, marker="o", ls=(0, (4, 2)))
        axes.annotate(
            f"twice as many: {percent(more, 1)}", (2 * images[-1], more), (-8, 8), textcoords="offset points",
            ha="right", fontsize=9, color=GRAY,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([*images, 2 * images[-1]], [f"{n:,}" for n in [*images, 2 * images[-1]]])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(percent_ticks())
    axes.margins(x=0.1, y=0.18)
    axes.set_title("Top-1 on images that were not trained on, by number of training images")
    axes.set_xlabel("training images")
    return figure


@styled
def accuracy_vs_time_plot(rows: Sequence[Mapping[str, Any]], choose_by: str = "top1") -> Figure:
    """The chosen test metric with its 95 % interval against training time.

    Args:
        rows: model, seconds and, for top-1, test_top1, test_top1_low and test_top1_high of each model.
    """
    key, name = f"test_{choose_by}", f"test {METRIC_NAMES[choose_by]}"
    longest, shortest = max(row["seconds"] for row in rows), min(row["seconds"] for row in rows)
    unit, size = ("s", 1) if longest < 180 else ("min", 60) if longest < 3 * 3600 else ("h", 3600)
    figure = Figure((9, 5.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(f"T{name[1:]} (95 % interval) against training time")
    axes.set_xlabel(f"training time, {unit}")
    axes.set_ylabel(name)
    if choose_by != "loss":
        axes.yaxis.set_major_formatter(percent_ticks())
    if shortest > 0 and longest > 8 * shortest:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    styles = _model_styles([row["model"] for row in rows])
    for row in rows:
        style, x = styles[row["model"]], row["seconds"] / size
        axes.plot(
            [x, x], [row[f"{key}_low"], row[f"{key}_high"]], color=style["color"], marker="_", ms=9, lw=1.5
        )
        axes.plot([x], [row[key]], **style, ms=8)
    axes.margins(x=0.18, y=0.12)
    figure.draw_without_rendering()  # fixes the position of the axes
    labels = [f"{row['model']} {metric_value(choose_by, row[key], 1)}" for row in rows]
    _label_points(axes, [(r["seconds"] / size, r[key], text) for r, text in zip(rows, labels, strict=True)])
    return figure


def _label_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each label beside its point, at the first position that hides no other label, point or line."""
    renderer = FigureCanvasAgg(axes.get_figure(root=True)).get_renderer()
    occupied = [line.get_window_extent(renderer).padded(4) for line in axes.lines]
    frame = axes.get_window_extent(renderer)
    heights = (5, 14, 23, 37, 51, 65)
    offsets = [(across, up * height) for height in heights for up in (1, -1) for across in (9, -9)]
    for x, y, label in points:
        for across, up in offsets:
            text = axes.annotate(
                label, (x, y), (across, up), fontsize=9.5, textcoords="offset points", va="center",
                ha="left" if across > 0 else "right",
                arrowprops={"arrowstyle": "-", "color": GRAY, "lw": 0.6} if abs(up) > 20 else None,
            )  # fmt: skip
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # without the arrow
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if (inside and not any(box.overlaps(other) for other in occupied)) or (across, up) == offsets[-1]:
                break
            text.remove()
        occupied.append(box)
