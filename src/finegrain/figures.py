"""Charts of a run, as matplotlib figures that give the same PNG bytes every time.

Every share (top-1, recall) is in [0, 1] and shown in percent. Colours are Okabe and Ito's, which stay apart
for colour-blind readers (https://jfly.uni-koeln.de/color/); a model also has its own marker.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from PIL import Image
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from finegrain import record

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
SPLITS = {"train": "#0072B2", "val": "#E69F00", "test": "#009E73"}
GREY = "#555555"
DPI = 144
FEW = 30
"""Up to so many classes, each is drawn with its name and number; above, charts show extremes."""
# DejaVu comes with matplotlib; a class name in another script is boxes unless a font here has its letters
_OTHER_SCRIPTS = ("Noto Sans CJK JP", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari")
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", *sorted(set(_OTHER_SCRIPTS) & set(get_font_names()))],
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.7, "legend.frameon": False,
}  # fmt: skip
# as a decorator: whatever the user's matplotlibrc says
_styled = matplotlib.style.context(["default", _STYLE])


@_styled
def png(figure: Figure) -> bytes:
    """The figure as a PNG of 256 colours: charts need no more, and git keeps a third of the bytes."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    stream = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(stream, format="png", optimize=True)
    return stream.getvalue()


def save(figure: Figure, file: Path) -> None:
    record.write_bytes(file, png(figure))


def training(history: pd.DataFrame) -> Figure:
    """``curves`` of one model."""
    return curves({"": history})


@_styled
def curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss, top-1 and learning rate by epoch; thin vertical lines where a phase ends.

    Args:
        histories: model -> one row per epoch with epoch (from 1, counted over phases), phase, side_pixels,
            lr, train_loss, train_top1, val_loss and val_top1. NaN is left out.
    """
    figure = Figure((11, 7.2), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(2.4, 1), hspace=0.06)
    loss, top1, rate, key = (figure.add_subplot(grid[i, j]) for i in (0, 1) for j in (0, 1))
    for axes, title in ((loss, "Loss"), (top1, "Top-1 accuracy"), (rate, "Learning rate")):
        axes.set_title(title, pad=22 if axes is rate else None)
        axes.set_xlabel("epoch")
        axes.set_xlim(0.5, max(history["epoch"].max() for history in histories.values()) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    top1.yaxis.set_major_formatter(PercentFormatter(1))

    looks, handles = _looks(histories), []
    rates = {tuple(history["lr"]) for history in histories.values()}
    for model, history in histories.items():
        look = {**looks[model], "markersize": 4, "markevery": max(1, len(history) // 10)}
        for axes, what in ((loss, "loss"), (top1, "top1")):
            axes.plot(history["epoch"], history[f"train_{what}"], **look, lw=1.2, ls=(0, (4, 2)), alpha=0.75)
            axes.plot(history["epoch"], history[f"val_{what}"], **look, lw=1.9)
        if len(rates) > 1 or len(histories) == 1:
            rate.plot(history["epoch"], history["lr"], **look, lw=1.6)
        best = history["val_top1"]
        text = model or "validation"
        if best.notna().any():
            text += f": best val {best.max():.1%} in epoch {history['epoch'].iloc[int(best.argmax())]}"
        handles.append(Line2D([], [], **looks[model], lw=1.9, label=text))
    if len(rates) == 1 and len(histories) > 1:
        rate.plot(history["epoch"], history["lr"], color=GREY, lw=1.6, marker=".")
        rate.set_title("Learning rate (the same for all)", pad=22)
    rate.set_ylim(bottom=0)
    _draw_phases(list(histories.values()), rate, (loss, top1, rate))
    handles += [Line2D([], [], color=GREY, lw=1.9, label="validation: solid")]
    handles += [Line2D([], [], color=GREY, lw=1.2, ls=(0, (4, 2)), label="training: dashed")]
    key.axis("off")
    key.legend(handles=handles, loc="center left", fontsize=9.5, labelspacing=0.5, handlelength=2.6)
    return figure


def _looks(models: Mapping[str, Any] | Sequence[str]) -> dict[str, dict[str, Any]]:
    """A model looks the same in all figures of one set of models, whatever their order."""
    return {
        model: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, model in enumerate(sorted(models))
    }


def _draw_phases(histories: Sequence[pd.DataFrame], named: Axes, panels: Sequence[Axes]) -> None:
    phases: dict[tuple[str, int, int], None] = {}
    for history in histories:
        stretch = (history["phase"] != history["phase"].shift()).cumsum()
        for _, part in history.groupby(stretch.to_numpy()):
            label = f"{part['phase'].iloc[0]}, {part['side_pixels'].iloc[-1]} px"
            phases[label, int(part["epoch"].iloc[0]), int(part["epoch"].iloc[-1])] = None
    total = max(last for _, _, last in phases)
    for end in sorted({last for _, _, last in phases if last < total}):
        for axes in panels:
            axes.axvline(end + 0.5, color=GREY, lw=0.8, ls=":")
    firsts = [first for _, first, _ in phases]
    if len(set(firsts)) < len(firsts):  # models differ in their phases: no one name per stretch
        return
    for label, first, last in phases:
        share = (last - first + 1) / total
        fits = int(share * 72)  # so many letters of this size go on the panel's whole width
        named.text(
            (first + last) / 2,
            1.02,
            _short(label, fits) if fits >= 5 else "",
            fontsize=8,
            color=GREY,
            ha="center",
            va="bottom",
            transform=named.get_xaxis_transform(),
            parse_math=False,
        )


def _short(name: str, letters: int = 46) -> str:
    """One printable line; a long name loses its middle, as makes and years stand at the ends."""
    name = "".join(letter if letter.isprintable() else "�" for letter in name)
    tail = letters // 3
    return name if len(name) <= letters else f"{name[: letters - tail - 1].rstrip()}…{name[-tail:].lstrip()}"


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


def _row_shares(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)  # a class without images stays at 0


@_styled
def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Row-normalised confusion: right answers in blue, mistakes in orange on a log scale.

    Args:
        matrix: ``[C, C]`` counts, rows the true class, columns the predicted one.
        classes: C names. Above ``FEW`` classes they are drawn in ``confusion_order``, without numbers.

    Raises:
        ValueError: the matrix does not fit the names.
    """
    count = len(classes)
    if matrix.shape != (count, count):
        raise ValueError(f"matrix must be [{count}, {count}] for {count} classes, got {list(matrix.shape)}")
    few = count <= FEW
    order = np.arange(count) if few else confusion_order(matrix)
    shares = _row_shares(matrix)[np.ix_(order, order)]
    names = [_short(classes[i]) for i in order.tolist()]
    cell_inches = max(0.46, 2.2 / count) if few else max(0.102, min(0.2, 14 / count))
    letter_points = 9.5 if few else min(9, cell_inches * 64)
    margin_inches = max(map(len, names)) * letter_points * 0.57 / 72 + 0.7
    side = cell_inches * count + margin_inches
    figure = Figure((side + 1.3, side + 0.3), dpi=DPI if few else 100, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title("Each row: where the test images of one class went", loc="center", pad=10)

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
    named = range(count) if count <= 400 else range(0)  # beyond, no font is small enough
    axes.set_xticks(named, names[: len(named)], rotation=90, fontsize=letter_points, parse_math=False)
    axes.set_yticks(named, rows[: len(named)], fontsize=letter_points, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class (images)" if few else "true class")
    axes.tick_params(length=2 if few else 0, pad=2)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    if count <= 400:  # the grid of cells
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#E8E8E8", lw=0.8 if few else 0.4)
        axes.tick_params(which="minor", length=0)
    if few:
        for i, j in zip(*np.nonzero(shares), strict=True):
            dark = shares[i, j] > 0.45 if i == j else shares[i, j] > 0.25
            axes.text(j, i, f"{shares[i, j] * 100:.0f}", ha="center", va="center", fontsize=8.5,
                      color="white" if dark else "black", fontweight="bold" if i == j else None)  # fmt: skip
    return figure


@_styled
def accuracy_vs_time(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Test top-1 with its 95 % interval against training time.

    Args:
        rows: each with model, test_top1, test_top1_low, test_top1_high and seconds.
    """
    longest, shortest = max(row["seconds"] for row in rows), min(row["seconds"] for row in rows)
    unit, size = ("s", 1) if longest < 180 else ("min", 60) if longest < 3 * 3600 else ("h", 3600)
    figure = Figure((9, 5.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title("Test top-1 (95 % interval) and what it cost")
    axes.set_xlabel(f"training time, {unit}")
    axes.set_ylabel("test top-1")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    if shortest > 0 and longest > 8 * shortest:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    looks = _looks([row["model"] for row in rows])
    for row in rows:
        reach = [[row["test_top1"] - row["test_top1_low"]], [row["test_top1_high"] - row["test_top1"]]]
        axes.errorbar(
            [row["seconds"] / size], [row["test_top1"]], reach, **looks[row["model"]], ms=8, capsize=4
        )
    axes.margins(x=0.18, y=0.12)
    figure.draw_without_rendering()  # from here on the axes stay where they are
    _label_points(
        axes, [(r["seconds"] / size, r["test_top1"], f"{r['model']} {r['test_top1']:.1%}") for r in rows]
    )
    return figure


def _label_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write each label beside its point, at the first place that hides no other label or point."""
    renderer = FigureCanvasAgg(axes.get_figure(root=True)).get_renderer()
    taken = [line.get_window_extent(renderer).padded(4) for line in axes.lines]
    frame = axes.get_window_extent(renderer)
    heights = (5, 14, 23, 37, 51, 65)
    places = [(across, up * height) for height in heights for up in (1, -1) for across in (9, -9)]
    for x, y, label in points:
        for across, up in places:
            text = axes.annotate(
                label, (x, y), (across, up), fontsize=9.5, textcoords="offset points", va="center",
                ha="left" if across > 0 else "right",
                arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.6} if abs(up) > 20 else None,
            )  # fmt: skip
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # without the arrow
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if (inside and not any(box.overlaps(other) for other in taken)) or (across, up) == places[-1]:
                break
            text.remove()
        taken.append(box)


@_styled
def per_class(frame: pd.DataFrame) -> Figure:
    """Recall of each class, worst first; above ``FEW`` classes the 15 worst and best, and a histogram.

    Args:
        frame: class, images (in the test split), recall. A class without images is left out.
    """
    known = frame[(frame["images"] > 0) & frame["recall"].notna()].sort_values(["recall", "class"])
    text = [f"{recall:.0%} of {n}" for recall, n in zip(known["recall"], known["images"], strict=True)]
    bars = pd.DataFrame(
        {"share": known["recall"].to_numpy()}, index=[_short(name) for name in known["class"]]
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


@_styled
def class_balance(frame: pd.DataFrame) -> Figure:
    """Images per class and split; above ``FEW`` classes all by rank, with the smallest and largest named.

    Args:
        frame: class, split, images.
    """
    table = frame.pivot_table(index="class", columns="split", values="images", aggfunc="sum", fill_value=0)
    table = table[sorted(table, key=lambda split: (list(SPLITS) + [split]).index(split))]
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    total = table.sum(axis=1)
    look = {str(split): SPLITS.get(str(split), GREY) for split in table}
    bars, text = table.set_axis([_short(str(name)) for name in table.index]), [f"{n:,}" for n in total]
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
