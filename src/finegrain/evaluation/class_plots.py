"""Charts of classes: which are mistaken for which, how well each is known, how many images each has.

Every share (recall) is in [0, 1] and shown in percent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from finegrain.evaluation.plot_style import DPI, GRAY, shorten, styled

SPLITS = {"train": "#0072B2", "val": "#E69F00", "test": "#009E73"}
MAX_CLASSES, SHOWN_CLASSES = 400, 100
"""Above so many classes no letter could be read: the chart of confusion shows those of the most mistakes."""
FEW = 30
"""Up to so many classes, each is drawn with its name and number; above, charts show extremes."""


def confusion_order(matrix: np.ndarray) -> np.ndarray:
    """A permutation of the classes in which those that are taken for each other stand together.

    Average linkage over 1 - (mean share of mistakes both ways), leaves in optimal order.
    """
    if len(matrix) < 3:
        return np.arange(len(matrix))
    shares = _row_shares(matrix)
    distance = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance), "average", optimal_ordering=True))


def _row_shares(matrix: np.ndarray, images: np.ndarray | None = None) -> np.ndarray:
    total = matrix.sum(axis=1) if images is None else images
    return matrix / np.maximum(total, 1)[:, None]  # a class without images stays at 0


@styled
def confusion_plot(
    matrix: np.ndarray, classes: Sequence[str], images: np.ndarray | None = None, of: int | None = None
) -> Figure:
    """Row-normalised confusion: right answers in blue, mistakes in orange on a log scale.

    Args:
        matrix: ``[C, C]`` counts, rows the true class, columns the predicted one.
        classes: C names. Above ``FEW`` classes they are drawn in ``confusion_order``, without numbers.
        images: ``[C]`` of each class, where some were taken for classes that are not among these.
        of: how many classes there are, where these are only those of the most mistakes.

    Raises:
        ValueError: the matrix does not fit the names.
    """
    count = len(classes)
    if matrix.shape != (count, count):
        raise ValueError(f"matrix must be [{count}, {count}] for {count} classes, got {list(matrix.shape)}")
    few = count <= FEW
    order = np.arange(count) if few else confusion_order(matrix)
    shares = _row_shares(matrix, images)[np.ix_(order, order)]
    names = [shorten(classes[i]) for i in order.tolist()]
    cell_inches = max(0.46, 2.2 / count) if few else max(0.102, min(0.2, 14 / count))
    letter_points = 9.5 if few else min(9, cell_inches * 64)
    margin_inches = max(map(len, names)) * letter_points * 0.57 / 72 + 0.7
    side = cell_inches * count + margin_inches
    figure = Figure((side + 1.3, side + 0.3), dpi=DPI if few else 100, layout="constrained")
    axes = figure.add_subplot()
    title = "Each row: where the test images of one class went"
    title += f"; the {count} of {of:,} classes with the most mistakes" if of else ""
    axes.set_title(title, loc="center", pad=10)

    diagonal = np.eye(count, dtype=bool)
    mistakes = np.ma.masked_where(diagonal | (shares == 0), shares)
    low = min(0.5, mistakes.min()) if mistakes.count() else 0.01
    blue = LinearSegmentedColormap.from_list("right", ["#EAF3F9", "#0072B2", "#003A5C"])
    orange = LinearSegmentedColormap.from_list("mistakes", ["#FCDDBD", "#D55E00", "#571F00"])
    wrong = axes.imshow(mistakes, orange, norm=LogNorm(low, 1))
    right = axes.imshow(np.ma.masked_where(~diagonal, shares), blue, vmin=0, vmax=1)
    length: dict[str, Any] = {"shrink": 0.3, "aspect": 22} if not few else {"shrink": 0.8, "aspect": 30}
    ticks = [tick for tick in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if tick >= low]
    percent = FuncFormatter(lambda share, _: f"{share * 100:g} %")
    for image, label in ((wrong, "mistaken for"), (right, "right")):
        bar = figure.colorbar(image, ax=axes, label=label, pad=0.01, format=percent, **length)
        bar.outline.set_visible(False)
        if image is wrong:
            bar.set_ticks(ticks)
            bar.minorticks_off()
    rows = [f"{n} ({int(matrix[i].sum())})" for n, i in zip(names, order, strict=True)] if few else names
    axes.set_xticks(range(count), names, rotation=90, fontsize=letter_points, parse_math=False)
    axes.set_yticks(range(count), rows, fontsize=letter_points, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (images)" if few else "true class")
    axes.tick_params(length=2 if few else 0, pad=2)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)  # the grid of cells
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#E8E8E8", lw=0.8 if few else 0.4)
    axes.tick_params(which="minor", length=0)
    if few:
        for i, j in zip(*np.nonzero(shares), strict=True):
            dark = shares[i, j] > 0.45 if i == j else shares[i, j] > 0.25
            axes.text(j, i, f"{shares[i, j] * 100:.0f}", ha="center", va="center", fontsize=8.5,
                      color="white" if dark else "black", fontweight="bold" if i == j else None)  # fmt: skip
    return figure


@styled
def per_class_recall_plot(frame: pd.DataFrame) -> Figure:
    """Recall of each class, worst first; above ``FEW`` classes the 15 worst and best, and a histogram.

    Args:
        frame: class, images (in the test split), recall. A class without images is left out.
    """
    known = frame[(frame["images"] > 0) & frame["recall"].notna()].sort_values(["recall", "class"])
    text = [f"{recall:.0%} of {n}" for recall, n in zip(known["recall"], known["images"], strict=True)]
    bars = pd.DataFrame(
        {"share": known["recall"].to_numpy()}, index=[shorten(name) for name in known["class"]]
    )
    look = {"share": "#0072B2"}
    if len(known) <= FEW:
        figure = Figure((9, 1.1 + 0.29 * max(3, len(known))), dpi=DPI, layout="constrained")
        panels = [
            _bars(figure.add_subplot(), bars, text, look, "Recall of each class (share of its test images)")
        ]
    else:
        figure = Figure((13, 8), dpi=DPI, layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=(1, 2))
        top = figure.add_subplot(grid[0, :])
        top.hist(known["recall"], bins=np.linspace(0, 1, 21).tolist(), color=look["share"], edgecolor="white")
        top.set_title(f"Recall of all {len(known)} classes: median {known['recall'].median():.0%}")
        top.set_ylabel("classes")
        top.yaxis.set_major_locator(MaxNLocator(integer=True))
        worst, best = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
        panels = [top, _bars(worst, bars[:15], text[:15], look, "The 15 worst")]
        panels += [_bars(best, bars[-15:], text[-15:], look, "The 15 best")]
    for axes in panels:
        axes.set_xlim(0, 1 if axes.get_ylabel() else 1.17)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    return figure


@styled
def class_balance_plot(frame: pd.DataFrame) -> Figure:
    """Images per class and split; above ``FEW`` classes all by rank, with the smallest and largest named.

    Args:
        frame: class, split, images.
    """
    table = frame.pivot_table(index="class", columns="split", values="images", aggfunc="sum", fill_value=0)
    table = table[sorted(table, key=lambda split: (list(SPLITS) + [split]).index(split))]
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    total = table.sum(axis=1)
    look = {str(split): SPLITS.get(str(split), GRAY) for split in table}
    bars, text = table.set_axis([shorten(str(name)) for name in table.index]), [f"{n:,}" for n in total]
    title = f"{total.sum():,} images of {len(table)} classes"
    if len(table) <= FEW:
        figure = Figure((9, 1.3 + 0.29 * max(3, len(table))), dpi=DPI, layout="constrained")
        first = _bars(figure.add_subplot(), bars, text, look, title)
        first.set_xlabel("images")
    else:
        same = total.nunique() == 1
        figure = Figure((13, 3.2 if same else 6.8), dpi=DPI, layout="constrained")
        grid = figure.add_gridspec(1 if same else 2, 2, height_ratios=(1,) if same else (1, 1.1))
        first = figure.add_subplot(grid[0, :])
        first.stackplot(np.arange(len(table) + 1), *(np.append(table[s], table[s].iloc[-1]) for s in table),
                        colors=list(look.values()), labels=list(look), step="post")  # fmt: skip
        first.set_title(
            title + (f": {total.iloc[0]:,} of each" if same else f", median {total.median():,.0f}")
        )
        first.set_xlabel("classes, the largest first")
        first.set_ylabel("images")
        first.set_xlim(0, len(table))
        if not same:
            largest, smallest = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
            _bars(largest, bars[:10], text[:10], look, "The 10 largest")
            _bars(smallest, bars[-10:], text[-10:], look, "The 10 smallest").sharex(largest)
    handles = [Line2D([], [], color=colour, lw=8, label=split) for split, colour in look.items()]
    first.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(look), handlelength=1)
    return figure


def _bars(axes: Axes, table: pd.DataFrame, text: Sequence[str], look: Mapping[str, str], title: str) -> Axes:
    """Horizontal bars, the first row on top, columns stacked, ``text`` at their ends."""
    place, left = np.arange(len(table)), np.zeros(len(table))
    for column in table:
        axes.barh(place, table[column], 0.72, left, color=look[str(column)])
        left = left + table[column].to_numpy()
    for y, (end, words) in enumerate(zip(left, text, strict=True)):
        axes.annotate(words, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(place, list(table.index), fontsize=9, parse_math=False)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0, max(1e-9, left.max() if len(left) else 0) * 1.12)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title)
    return axes
