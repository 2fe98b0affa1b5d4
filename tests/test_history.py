"""The history of a run survives a checkpoint whole."""

import copy

import pytest
import torch
import yaml
from pipeline import ROOT
from torch import nn

from finegrain.core import paths
from finegrain.training import run
from finegrain.training.history import EpochTotals, TrainingHistory
from finegrain.training.lr_finder import LRPoint


def epoch(top1: float) -> dict[str, float | str]:
    return {"phase": "all", "val_top1": top1, "val_loss": 0.5}


def test_a_worse_epoch_after_a_resume_does_not_replace_the_best_weights():
    """A resume that forgets the best score keeps the weights of its first epoch, however bad."""
    net, history, resumed = nn.Linear(1, 1), TrainingHistory(), TrainingHistory()
    history.add(epoch(0.9), net)
    best = net.weight.item()
    resumed.restore(copy.deepcopy(history.state()))
    nn.init.constant_(net.weight, best + 1)
    resumed.add(epoch(0.5), net)
    assert resumed.best["val_top1"] == 0.9 and resumed.weights["weight"].item() == best
    resumed.add(epoch(0.95), net)
    assert resumed.best["val_top1"] == 0.95 and resumed.weights["weight"].item() == best + 1


@pytest.mark.parametrize(
    ("choose_by", "kept"), [("top1", 3), ("macro_f1", 3), ("mean_class_accuracy", 1), ("loss", 0)]
)
def test_the_metric_that_chooses_decides_the_weights_and_early_stopping(choose_by, kept):
    """Top-1 and macro-F1 of the last epoch are those of another one, whose loss is higher."""
    net, history = nn.Linear(1, 1), TrainingHistory(choose_by)
    by_class = {"val_macro_f1": (0.4, 0.7, 0.6, 0.7), "val_mean_class_accuracy": (0.4, 0.7, 0.6, 0.5)}
    for number, (top1, loss) in enumerate(zip((0.7, 0.8, 0.9, 0.9), (0.2, 0.4, 0.6, 0.3), strict=True)):
        nn.init.constant_(net.weight, number)
        by_epoch = {name: values[number] for name, values in by_class.items()}
        history.add({"phase": "all", "val_top1": top1, "val_loss": loss, **by_epoch}, net)
    assert (
        history.weights["weight"].item() == kept == len(history.rows) - 1 - history.epochs_since_best("all")
    )


def test_everything_comes_back_from_a_checkpoint():
    history, resumed = TrainingHistory(), TrainingHistory()
    history.add(epoch(0.9), nn.Linear(1, 1))
    history.lrs["all"], history.stopped = 0.1, ["head"]
    history.lr_range_tests["all"] = [LRPoint(0.1, 2.0, 3.0)]
    history.partial_epoch = EpochTotals(torch.tensor(1.5), torch.tensor(3), steps=2, images=8, seconds=4.0)
    resumed.restore(history.state())
    assert vars(resumed) == vars(history)


@pytest.mark.parametrize("choose_by", ["top1", "mean_class_accuracy", "macro_f1", "loss"])
def test_the_history_s_file_has_the_columns_that_dvc_plots(project, choose_by):
    metrics = ("train_loss", "train_top1", "val_loss", "val_top1", "val_macro_f1", "val_mean_class_accuracy")
    row = {"epoch": 1, "phase": "all", "image_size": 32, "lr": 0.1, **dict.fromkeys(metrics, 0.5)}
    files = paths.Run("d", "net", 0)
    run.write_history(files, TrainingHistory(choose_by, [row]))
    columns = files.history.read_text().splitlines()[0].split(",")
    assert len(columns) == 8 + (choose_by in ("macro_f1", "mean_class_accuracy"))
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    (plotted,) = (plot for each in plots for name, plot in each.items() if name.endswith("/history"))
    shown = [name.replace("${choose_by}", choose_by) for name in plotted["y"]]
    assert shown == ["train_top1", f"val_{choose_by}"] and set(shown) <= set(columns)
