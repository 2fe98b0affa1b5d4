"""Plots of the classes of a dataset: recall of each, and number of images of each.

Recall is in [0, 1] and shown in percent.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

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

SPLITS = {"train": COLORS[0], "val": COLORS[4], "test": COLORS[2]}
"""Color of each split."""


@styled
def per_class_recall_plot(frame: pd.DataFrame) -> Figure:
    """Recall of each class, worst first; for many classes a histogram, and the 15 worst and best.

    Args:
        frame: columns class, images (in the test split) and recall. Classes without images are left out.
    """
    shown = frame[(frame["images"] > 0) & frame["recall"].notna()].sort_values(["recall", "class"])
    text = [f"{percent(recall)} of {n:,}" for recall, n in zip(shown["recall"], shown["images"], strict=True)]
    bars = pd.DataFrame(
        {"recall": shown["recall"].to_numpy()}, index=[shorten(name) for name in shown["class"]]
    )
    color = {"recall": COLORS[0]}
    if len(shown) <= FEW_CLASSES:
        figure = Figure((9, 1.1 + 0.29 * max(3, len(shown))), dpi=DPI, layout="constrained")
        panels = [
            _bars(figure.add_subplot(), bars, text, color, "Recall of each class (share of its test images)")
        ]
    else:
        figure = Figure((13, 8), dpi=DPI, layout="constrained")
        grid = figure.add_gridspec(2, 2, height_ratios=(1, 2))
        top = figure.add_subplot(grid[0, :])
        top.hist(shown["recall"], bins=np.linspace(0, 1, 21).tolist(), color=COLORS[0], edgecolor="white")
        top.set_title(f"Recall of all {len(shown)} classes: median {percent(shown['recall'].median())}")
        top.set_ylabel("classes")
        top.yaxis.set_major_locator(MaxNLocator(integer=True))
        worst, best = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
        panels = [top, _bars(worst, bars[:15], text[:15], color, "The 15 worst")]
        panels += [_bars(best, bars[-15:], text[-15:], color, "The 15 best")]
    for axes in panels:
        axes.set_xlim(0, 1 if axes.get_ylabel() else 1.17)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.xaxis.set_major_formatter(percent_ticks())
    return figure


@styled
def class_balance_plot(frame: pd.DataFrame) -> Figure:
    """Number of images by class and split; for many classes by rank, with the 10 largest and smallest.

    Args:
        frame: columns class, split and images.
    """
    table = frame.pivot_table(index="class", columns="split", values="images", aggfunc="sum", fill_value=0)
    table = table[sorted(table, key=lambda split: (list(SPLITS) + [split]).index(split))]
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    total = table.sum(axis=1)
    colors = {str(split): SPLITS.get(str(split), GRAY) for split in table}
    bars, text = table.set_axis([shorten(str(name)) for name in table.index]), [f"{n:,}" for n in total]
    title = f"{total.sum():,} images of {len(table)} classes"
    if len(table) <= FEW_CLASSES:
        figure = Figure((9, 1.3 + 0.29 * max(3, len(table))), dpi=DPI, layout="constrained")
        first = _bars(figure.add_subplot(), bars, text, colors, title)
        first.set_xlabel("images")
    else:
        balanced = total.nunique() == 1
        figure = Figure((13, 3.2 if balanced else 6.8), dpi=DPI, layout="constrained")
        grid = figure.add_gridspec(1 if balanced else 2, 2, height_ratios=(1,) if balanced else (1, 1.1))
        first = figure.add_subplot(grid[0, :])
        first.stackplot(np.arange(len(table) + 1), *(np.append(table[s], table[s].iloc[-1]) for s in table),
                        colors=list(colors.values()), labels=list(colors), step="post")  # fmt: skip
        first.set_title(
            title + (f": {total.iloc[0]:,} of each" if balanced else f", median {total.median():,.0f}")
        )
        first.set_xlabel("classes, the largest first")
        first.set_ylabel("images")
        first.set_xlim(0, len(table))
        if not balanced:
            largest, smallest = figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
            _bars(largest, bars[:10], text[:10], colors, "The 10 largest")
            _bars(smallest, bars[-10:], text[-10:], colors, "The 10 smallest").sharex(largest)
    handles = [Line2D([], [], color=color, lw=8, label=split) for split, color in colors.items()]
    first.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(colors), handlelength=1)
    return figure


def _bars(
    axes: Axes, table: pd.DataFrame, labels: Sequence[str], colors: Mapping[str, str], title: str
) -> Axes:
    """Draw horizontal stacked bars, one for each row from top to bottom, with a label at the end of each.

    Args:
        table: one row for each bar, one column for each part of the stack.
        labels: one for each row.
        colors: color of each column.
    """
    positions, left = np.arange(len(table)), np.zeros(len(table))
    for column in table:
        axes.barh(positions, table[column], 0.72, left, color=colors[str(column)])
        left = left + table[column].to_numpy()
    for y, (end, label) in enumerate(zip(left, labels, strict=True)):
        axes.annotate(label, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(positions, list(table.index), fontsize=9, parse_math=False)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0, max(1e-9, left.max() if len(left) else 0) * 1.12)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title)
    return axes
