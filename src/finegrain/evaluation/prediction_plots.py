"""Plots of one model's predictions: confusion matrix and reliability diagram."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from finegrain.evaluation import metrics
from finegrain.evaluation.plot_style import (
    COLORS,
    DPI,
    FEW_CLASSES,
    GRAY,
    percent,
    percent_ticks,
    shorten,
    styled,
)
from finegrain.models.calibration import BINS, Reliability
from finegrain.models.outputs import Floats, Ints, Predictions

MAX_CLASSES, SHOWN_CLASSES = 400, 100
"""With more classes than the first, labels would be unreadable: the second number of classes is shown."""
_CORRECT = LinearSegmentedColormap.from_list("correct", ["#EAF3F9", "#0072B2", "#003A5C"])
_MISTAKES = LinearSegmentedColormap.from_list("mistakes", ["#FCDDBD", "#D55E00", "#571F00"])
_COLORBAR_TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


def model_confusion_plot(predictions: Predictions, class_names: Sequence[str]) -> Figure:
    """The confusion matrix of one model; if there are very many classes, of those with the most mistakes.

    Similar classes are next to each other where there are many.
    """
    labels, predicted, count = predictions.labels, predictions.predicted, len(class_names)
    shown: Ints = np.arange(count)
    total = None
    if count > MAX_CLASSES:
        shown, total = metrics.most_confused_classes(labels, predicted, count, SHOWN_CLASSES), count
    matrix = metrics.confusion_matrix(labels, predicted, shown)
    images, _ = metrics.per_class_recall(labels, predicted, count)
    return confusion_plot(matrix, [class_names[i] for i in shown.tolist()], images[shown], total)


@styled
def confusion_plot(
    matrix: Ints, classes: Sequence[str], images: Ints | None = None, total_classes: int | None = None
) -> Figure:
    """Confusion matrix normalized by row: correct predictions in blue, mistakes in orange on a log scale.

    Args:
        matrix: ``[C, C]`` numbers of images, rows the true class, columns the predicted one.
        classes: C names. More than ``FEW_CLASSES`` are drawn in ``confusion_order`` and without numbers.
        images: ``[C]`` test images of each class, if some were predicted as a class that is not shown.
        total_classes: number of all classes, if only those with the most mistakes are shown.

    Raises:
        ValueError: the matrix does not have a row and a column for each name.
    """
    count = len(classes)
    if matrix.shape != (count, count):
        raise ValueError(f"matrix must be [{count}, {count}] for {count} classes, got {list(matrix.shape)}")
    few = count <= FEW_CLASSES
    order = np.arange(count) if few else confusion_order(matrix)
    shares = row_shares(matrix, images)[np.ix_(order, order)]
    names = [shorten(classes[i]) for i in order.tolist()]
    side, letter_points = _side_and_letters(names, few)
    figure = Figure((side + 2.2, side + 0.3), dpi=DPI if few else 100, layout="constrained")
    axes = figure.add_subplot()
    title = "Predicted classes of the test images of each true class" + (", in %" if few else "")
    title += f"; the {count} of {total_classes:,} classes with the most mistakes" if total_classes else ""
    axes.set_title(title, loc="center" if few else "left", pad=10)
    _draw_cells(axes, shares, few)
    rows = [f"{n} ({int(matrix[i].sum())})" for n, i in zip(names, order, strict=True)] if few else names
    _label_axes(axes, rows, names, letter_points, few)
    _draw_grid(axes, count, few)
    if few:
        _write_percentages(axes, shares)
    return figure


def _side_and_letters(names: Sequence[str], few: bool) -> tuple[float, float]:
    """Side of the matrix with its longest name in inches, and the size of the names in points."""
    count = len(names)
    cell = max(0.46, 2.2 / count) if few else max(0.102, min(0.2, 14 / count))
    letter_points = 9.5 if few else min(9, cell * 64)
    margin = max(map(len, names)) * letter_points * 0.57 / 72 + 0.7
    return cell * count + margin, letter_points


def confusion_order(matrix: Ints) -> Ints:
    """A permutation of the classes that puts those confused with each other next to each other.

    Average linkage over 1 - (mean share of mistakes both ways), leaves in optimal order.
    """
    if len(matrix) < 3:
        return np.arange(len(matrix))
    shares = row_shares(matrix)
    distance = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distance, 0)
    order: Ints = leaves_list(linkage(squareform(distance), "average", optimal_ordering=True))
    return order


def row_shares(matrix: Ints, images: Ints | None = None) -> Floats:
    """The matrix divided by the number of images of each row's class, or by the sum of the row."""
    total = matrix.sum(axis=1) if images is None else images
    shares: Floats = matrix / np.maximum(total, 1)[:, None]  # a class without images stays at 0
    return shares


def _draw_cells(axes: Axes, shares: Floats, few: bool) -> None:
    """Color the diagonal by recall and all other cells by their share of mistakes, each with a color bar."""
    diagonal = np.eye(len(shares), dtype=bool)
    mistakes = np.ma.masked_where(diagonal | (shares == 0), shares)
    low = min(0.5, mistakes.min()) if mistakes.count() else 0.01
    mistaken_cells = axes.imshow(mistakes, _MISTAKES, norm=LogNorm(low, 1))
    correct_cells = axes.imshow(np.ma.masked_where(~diagonal, shares), _CORRECT, vmin=0, vmax=1)
    percent = FuncFormatter(lambda share, _: f"{share * 100:g} %")
    shrink, aspect = (0.8, 30) if few else (0.3, 22)
    for cells, label in ((mistaken_cells, "predicted as"), (correct_cells, "correct")):
        bar = axes.figure.colorbar(
            cells, ax=axes, label=label, pad=0.01, format=percent, shrink=shrink, aspect=aspect
        )
        bar.outline.set_visible(False)
        if cells is mistaken_cells:
            bar.set_ticks([tick for tick in _COLORBAR_TICKS if tick >= low])
            bar.minorticks_off()


def _label_axes(
    axes: Axes, rows: Sequence[str], columns: Sequence[str], letter_points: float, few: bool
) -> None:
    """Write the class names along both axes."""
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=letter_points, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, fontsize=letter_points, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (images)" if few else "true class")
    axes.tick_params(length=2 if few else 0, pad=2)


def _draw_grid(axes: Axes, count: int, few: bool) -> None:
    """Draw thin lines between the cells, as the grid of the minor ticks."""
    axes.spines[:].set_visible(False)
    axes.grid(False)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#E8E8E8", lw=0.8 if few else 0.4)
    axes.tick_params(which="minor", length=0)


def _write_percentages(axes: Axes, shares: Floats) -> None:
    """Write the percentage into each cell that is not zero, in white where the cell is dark."""
    for i, j in zip(*np.nonzero(shares), strict=True):
        dark = shares[i, j] > 0.45 if i == j else shares[i, j] > 0.25
        axes.text(j, i, f"{shares[i, j] * 100:.0f}", ha="center", va="center", fontsize=8.5,
                  color="white" if dark else "black", fontweight="bold" if i == j else None)  # fmt: skip


@styled
def reliability_plot(uncalibrated: Reliability, calibrated: Reliability, temperature: float) -> Figure:
    """Accuracy and number of images by confidence bin, without and with the temperature.

    A mark below the diagonal means that the network is overconfident there.
    """
    figure = Figure((10, 5.6), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 1))
    edges = np.linspace(0, 1, BINS + 1)
    panels = ("As trained", uncalibrated), (f"With temperature {temperature:.2f}", calibrated)
    for column, (title, bins) in enumerate(panels):
        accuracy, images = figure.add_subplot(grid[0, column]), figure.add_subplot(grid[1, column])
        nonempty = bins.images > 0
        bars: dict[str, Any] = {"width": 1 / BINS, "align": "edge", "edgecolor": "white"}
        accuracy.bar(edges[:-1][nonempty], bins.accuracy[nonempty], color=COLORS[0], label="accuracy", **bars)
        accuracy.plot([0, 1], [0, 1], color=GRAY, lw=1, ls=(0, (4, 2)), label="perfect calibration")
        accuracy.plot(
            bins.confidence[nonempty], bins.accuracy[nonempty], "D", color=COLORS[4], ms=5,
            label="accuracy at the bin's mean confidence",
        )  # fmt: skip
        accuracy.set_title(f"{title}: calibration error {percent(bins.ece, 1)}")
        accuracy.set_ylabel("accuracy")
        accuracy.set_ylim(0, 1.02)
        images.bar(edges[:-1], bins.images, color="#B8C4CC", **bars)
        images.set_xlabel("confidence")
        images.set_ylabel("images")
        images.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        for axes in (accuracy, images):
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(percent_ticks())
        accuracy.yaxis.set_major_formatter(percent_ticks())
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=9)
    return figure
