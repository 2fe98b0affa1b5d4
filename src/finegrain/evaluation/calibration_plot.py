"""Reliability diagram: accuracy against confidence, before and after calibration."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from finegrain.evaluation.plot_style import COLORS, DPI, GRAY, styled
from finegrain.models.calibration import BINS, Reliability


@styled
def reliability_plot(uncalibrated: Reliability, calibrated: Reliability, temperature: float) -> Figure:
    """Accuracy and number of images by confidence bin, without and with the temperature.

    A bar below the diagonal means that the network is overconfident there.
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
            label="at the mean confidence",
        )  # fmt: skip
        accuracy.set_title(f"{title}: calibration error {bins.ece:.1%}")
        accuracy.set_ylabel("accuracy")
        accuracy.set_ylim(0, 1.02)
        images.bar(edges[:-1], bins.images, color="#B8C4CC", **bars)
        images.set_xlabel("confidence")
        images.set_ylabel("images")
        images.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        for axes in (accuracy, images):
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(PercentFormatter(1))
        accuracy.yaxis.set_major_formatter(PercentFormatter(1))
        if column == 0:
            accuracy.legend(loc="upper left", fontsize=9)
    return figure
