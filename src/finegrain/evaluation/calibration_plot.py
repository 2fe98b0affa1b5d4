"""Plot of confidence against accuracy."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from finegrain.evaluation.plot_style import COLORS, DPI, GRAY, styled
from finegrain.models.calibration import BINS, Reliability


@styled
def reliability_plot(plain: Reliability, calibrated: Reliability, temperature: float) -> Figure:
    """Accuracy against confidence, bin by bin, as trained and with the temperature; below, the images.

    A bar under the diagonal is a network that is surer than it is right.
    """
    figure = Figure((10, 5.6), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 1))
    edges = np.linspace(0, 1, BINS + 1)
    panels = ("As trained", plain), (f"With temperature {temperature:.2f}", calibrated)
    for column, (title, found) in enumerate(panels):
        share, images = figure.add_subplot(grid[0, column]), figure.add_subplot(grid[1, column])
        filled = found.images > 0
        bars: dict[str, Any] = {"width": 1 / BINS, "align": "edge", "edgecolor": "white"}
        share.bar(edges[:-1][filled], found.accuracy[filled], color=COLORS[0], label="accuracy", **bars)
        share.plot([0, 1], [0, 1], color=GRAY, lw=1, ls=(0, (4, 2)), label="as sure as it is right")
        share.plot(
            found.confidence[filled], found.accuracy[filled], "D", color=COLORS[4], ms=5,
            label="at the mean confidence",
        )  # fmt: skip
        share.set_title(f"{title}: calibration error {found.error:.1%}")
        share.set_ylabel("accuracy")
        share.set_ylim(0, 1.02)
        images.bar(edges[:-1], found.images, color="#B8C4CC", **bars)
        images.set_xlabel("confidence")
        images.set_ylabel("images")
        images.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        for axes in (share, images):
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(PercentFormatter(1))
        share.yaxis.set_major_formatter(PercentFormatter(1))
        if column == 0:
            share.legend(loc="upper left", fontsize=9)
    return figure
