"""Plot of a hyperparameter search: one panel for each parameter, one dot for each trial."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from finegrain.comparison.formatting import METRIC_NAMES
from finegrain.evaluation.plot_style import COLORS, DPI, GRAY, percent, percent_ticks, shorten, styled
from finegrain.search import search_space
from finegrain.search.trial import Trial

MIN_TRIALS = 8
"""With fewer trials no importances are shown."""
COLUMNS = 3


@styled
def importance_plot(space: search_space.Space, trials: Sequence[Trial]) -> Figure:
    """Plot the validation metric over the trials, then over each parameter, the most important first.

    Args:
        trials: those that have a result, two or more.
    """
    shares = importances(space, trials)
    names = sorted(space, key=lambda name: -shares.get(name, 0.0))
    rows = -(-(1 + len(names)) // COLUMNS)
    columns = min(COLUMNS, 1 + len(names))
    figure = Figure((4.2 * columns, 3.3 * rows), dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    values = np.array([trial.value for trial in trials], float)
    best, metric = min(range(len(trials)), key=lambda i: trials[i].rank), trials[0].metric
    _history_panel(panels[0], [trial.number for trial in trials], values, best)
    for axes, name in zip(panels[1:], names, strict=False):
        importance = f": importance {percent(shares[name])}" if name in shares else ""
        axes.set_title(shorten(name, 24) + importance)
        _parameter_panel(axes, space[name], [trial.values[name] for trial in trials], values, best)
    for axes in panels[1 + len(names) :]:
        axes.axis("off")
    for axes in panels[::columns]:
        axes.set_ylabel(f"validation {METRIC_NAMES[metric]}")
        if metric != "loss":
            axes.yaxis.set_major_formatter(percent_ticks())
    return figure


def importances(space: search_space.Space, trials: Sequence[Trial]) -> dict[str, float]:
    """Share of the metric's variance that each parameter alone explains; together 1.

    From the functional ANOVA of a random forest (Hutter et al. 2014).

    Returns:
        An empty dict if there are fewer than ``MIN_TRIALS``, or all have the same value.
    """
    if len(trials) < MIN_TRIALS or len({trial.value for trial in trials}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(
        search_space.build_study(space, trials), evaluator=evaluator
    )


def _history_panel(axes: Axes, numbers: Sequence[int], values: np.ndarray, best: int) -> None:
    axes.set_title(f"{len(numbers)} trials; line: best so far")
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    so_far = np.minimum if values[best] == values.min() else np.maximum
    axes.step(numbers, so_far.accumulate(values), where="post", color=GRAY, lw=1.4)
    _scatter(axes, np.array(numbers, float), values, best)


def _parameter_panel(
    axes: Axes, distribution: Any, tried: Sequence[str], values: np.ndarray, best: int
) -> None:
    if isinstance(distribution, CategoricalDistribution):
        positions = np.array([distribution.choices.index(value) for value in tried])
        # jitter keeps dots of one choice from hiding each other; seeded, so that the file stays the same
        jitter = np.random.default_rng(0).uniform(-0.15, 0.15, len(positions))
        labels = [_choice_label(str(choice)) for choice in distribution.choices]
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlim(-0.5, len(labels) - 0.5)
        _scatter(axes, positions + jitter, values, best)
        return
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.log:
        axes.set_xscale("log")
    elif isinstance(distribution, IntDistribution):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _scatter(axes, np.array([float(value) for value in tried]), values, best)


def _choice_label(choice: str) -> str:
    value = json.loads(choice)
    values = value if isinstance(value, list) else [value]
    return shorten(", ".join(each if isinstance(each, str) else json.dumps(each) for each in values), 16)


def _scatter(axes: Axes, x: np.ndarray, values: np.ndarray, best: int) -> None:
    """Plot a dot for each trial, and a star for the best."""
    axes.scatter(x, values, s=26, color=COLORS[0], alpha=0.7, linewidths=0)
    axes.scatter(x[best], values[best], s=110, marker="*", color=COLORS[1], zorder=3, label="best")
