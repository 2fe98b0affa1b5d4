"""What a sweep shows of its trials: their summary, and the plot of how much each parameter matters."""

import re

import numpy as np
import pytest
from pipeline import ROOT

from finegrain.config import params
from finegrain.evaluation import plot_style
from finegrain.search import importance_plot, search_space, sweep
from finegrain.search.trial import Trial, TrialLog

TRIED = search_space.parse_space(
    ["lr=1e-4..1e-2:log", "batch_size=8,16", "phases.all.epochs=2..8"], params.load_yaml(ROOT / "params.yaml")
)


def trials(count: int, seed: int = 0) -> list[Trial]:
    """Trials in which only the learning rate matters."""
    rng, made = np.random.default_rng(seed), []
    for number in range(count):
        log_lr = rng.uniform(-4, -2)
        values = {"lr": f"{10**log_lr:.4g}", "batch_size": str(rng.choice([8, 16]))}
        values["phases.all.epochs"] = str(rng.integers(2, 9))
        top1 = 0.8 - 0.3 * abs(log_lr + 3) + rng.normal(0, 0.01)
        made.append(Trial(number, values, "done", top1, 1 - top1, 100))
    return made


def test_importances_find_the_parameter_that_matters():
    shares = importance_plot.importances(TRIED, trials(30))
    assert shares["lr"] > 0.8 and sum(shares.values()) == pytest.approx(1)
    assert importance_plot.importances(TRIED, trials(7)) == {}
    same = [Trial(trial.number, trial.values, "done", 0.5, 1.0, 100) for trial in trials(10)]
    assert importance_plot.importances(TRIED, same) == {}


def test_the_plot_has_a_panel_for_each_parameter_the_most_important_first():
    made = trials(30)
    figure = importance_plot.importance_plot(TRIED, made)
    history, first, *rest = (
        axes for axes in figure.axes if axes.get_visible() and axes.get_title(loc="left")
    )
    assert history.get_title(loc="left").startswith("30 trials")
    assert re.match(r"lr: importance \d\d\s%", first.get_title(loc="left")) and first.get_xscale() == "log"
    assert len(rest) == 2
    dots = first.collections[0].get_offsets()
    assert sorted(dots[:, 0]) == pytest.approx(sorted(float(trial.values["lr"]) for trial in made))
    best = min(made, key=lambda trial: trial.rank)
    assert first.collections[1].get_offsets().tolist() == [[float(best.values["lr"]), best.value]]
    assert plot_style.render_png(figure) == plot_style.render_png(
        importance_plot.importance_plot(TRIED, made)
    )


def test_the_summary_counts_the_trials_as_good_as_the_best(tmp_path):
    trial_log = TrialLog(tmp_path / "tune", {}, trials(12))
    trial_log.trials[3].state = "failed"
    text = sweep.summary(trial_log).replace("\N{NO-BREAK SPACE}", " ")
    best = min(trial_log.done, key=lambda trial: trial.rank)
    assert f"| tune-{best.number:03d} | {best.value:.2%}".replace("%", " %") in text
    # about 80 of 100 images are correct: the interval reaches some 9 points down
    close = sum(trial.value > best.value - 0.09 for trial in trial_log.done)
    assert 0 < close < 11
    assert text.count("11 trials (1 more failed).") == 1
    assert text.count(f"separate trials: {close - 1} others.") == 1
    for trial in trial_log.trials:
        trial.state = "failed"
    assert sweep.summary(trial_log) == "12 trials, all of them failed.\n"


def test_trials_are_ranked_by_their_metric(tmp_path):
    """The loss falls with the top-1 that ``trials`` makes up, and the lowest is best."""
    losses = [Trial(t.number, t.values, "done", t.loss, t.loss, 100, "loss") for t in trials(12)]
    best = min(losses, key=lambda trial: trial.rank)
    assert best.value == min(trial.value for trial in losses)
    assert search_space.build_study(TRIED, losses).best_value == best.value
    text = sweep.summary(TrialLog(tmp_path / "tune", {}, losses))
    assert (
        "| experiment | validation loss |" in text
        and f"| tune-{best.number:03d} | {best.value:.3f} |" in text
    )
    figure = importance_plot.importance_plot(TRIED, losses)
    assert figure.axes[0].get_ylabel() == "validation loss"
    assert figure.axes[0].lines[0].get_ydata()[-1] == best.value
