"""What mattered in a sweep: one panel a parameter, every trial a dot."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from finegrain.evaluation.plot_style import COLORS, DPI, GRAY, shorten, styled
from finegrain.search import search_space
from finegrain.search.trial import Trial

MIN_TRIALS = 8
"""Trials, below which no share of the spread is told."""
COLUMNS = 3


@styled
def importance_plot(tried: search_space.Space, trials: Sequence[Trial]) -> Figure:
    """Validation top-1 over the trials, and over each parameter, the one that mattered most first.

    How much a parameter mattered is the share of the spread that it alone explains, by functional ANOVA of a
    random forest (Hutter et al. 2014); what is missing from 100 % is their joint doing.

    Args:
        trials: those that have a result, two or more.
    """
    shares = importances(tried, trials)
    names = sorted(tried, key=lambda name: -shares.get(name, 0.0))
    rows = -(-(1 + len(names)) // COLUMNS)
    columns = min(COLUMNS, 1 + len(names))
    figure = Figure((4.2 * columns, 3.3 * rows), dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    top1 = np.array([trial.top1 for trial in trials], float)
    best = min(range(len(trials)), key=lambda i: trials[i].rank)
    _history_panel(panels[0], [trial.number for trial in trials], top1, best)
    for axes, name in zip(panels[1:], names, strict=False):
        share = f": {shares[name]:.0%} of the spread" if name in shares else ""
        axes.set_title(shorten(name, 24) + share)
        _parameter_panel(axes, tried[name], [trial.values[name] for trial in trials], top1, best)
    for axes in panels[1 + len(names) :]:
        axes.axis("off")
    for axes in panels[::columns]:
        axes.set_ylabel("validation top-1")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def importances(tried: search_space.Space, trials: Sequence[Trial]) -> dict[str, float]:
    """Of each parameter, 0..1, together 1; empty where there are too few trials, or no spread."""
    if len(trials) < MIN_TRIALS or len({trial.top1 for trial in trials}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(
        search_space.build_study(tried, trials), evaluator=evaluator
    )


def _history_panel(axes: Axes, numbers: Sequence[int], top1: np.ndarray, best: int) -> None:
    axes.set_title(f"{len(numbers)} trials; line: best so far")
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.step(numbers, np.maximum.accumulate(top1), where="post", color=GRAY, lw=1.4)
    _dots(axes, np.array(numbers, float), top1, best)


def _parameter_panel(
    axes: Axes, distribution: Any, values: Sequence[str], top1: np.ndarray, best: int
) -> None:
    if isinstance(distribution, CategoricalDistribution):
        places = [distribution.choices.index(value) for value in values]
        # so that dots of one choice do not hide each other; the same at every drawing
        shifted = np.array(places) + np.random.default_rng(0).uniform(-0.15, 0.15, len(places))
        names = [_label(str(choice)) for choice in distribution.choices]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        _dots(axes, shifted, top1, best)
        return
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.log:
        axes.set_xscale("log")
    elif isinstance(distribution, IntDistribution):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _dots(axes, np.array([float(value) for value in values]), top1, best)


def _label(choice: str) -> str:
    value = json.loads(choice)
    listed = value if isinstance(value, list) else [value]
    return shorten(", ".join(each if isinstance(each, str) else json.dumps(each) for each in listed), 16)


def _dots(axes: Axes, x: np.ndarray, top1: np.ndarray, best: int) -> None:
    axes.scatter(x, top1, s=26, color=COLORS[0], alpha=0.7, linewidths=0)
    axes.scatter(x[best], top1[best], s=110, marker="*", color=COLORS[1], zorder=3, label="best")
