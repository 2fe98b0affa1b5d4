"""Results with intervals, validation results of a model that saw those images, and the metrics for DVC."""

import numpy as np
import pytest

from finegrain.evaluation import metrics, summary
from finegrain.models import outputs

METADATA = {
    "classes": ["a", "b", "c"], "temperature": 2.0, "best_epoch": 3, "lr": {"all": 0.1},
    "val_top1": 0.25, "val_loss": 1.5,
}  # fmt: skip
LABELS = np.arange(12) % 3
LOGITS = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
RAW, CALIBRATED = outputs.from_logits(LOGITS, LABELS), outputs.from_logits(LOGITS, LABELS, 2.0)
INTERVALS = summary.intervals_summary(RAW, CALIBRATED)


def test_intervals_hold_all_metrics_and_those_that_the_temperature_changes():
    assert INTERVALS.keys() == metrics.compute_metrics(RAW).keys() | {"calibrated_loss", "calibrated_ece"}
    assert INTERVALS["top1"] == metrics.wilson_interval(int(RAW.correct.sum()), 12)
    assert INTERVALS["calibrated_loss"] == metrics.confidence_intervals(CALIBRATED)["loss"]


@pytest.mark.parametrize("refit", [False, True])
def test_a_refit_model_has_the_validation_metrics_that_chose_its_epoch(refit):
    raw = {"test": RAW, "train": RAW} | ({} if refit else {"val": RAW})
    found = summary.results_summary(raw, CALIBRATED, INTERVALS, METADATA)
    test, uncalibrated = found["test"], metrics.compute_metrics(RAW)
    assert {key: test[key] for key in uncalibrated} == uncalibrated
    assert (test["top1_low"], test["top1_high"]) == INTERVALS["top1"]
    assert test["calibrated_loss"] == metrics.compute_metrics(CALIBRATED)["loss"] != test["loss"]
    assert found["train"] == {"top1": test["top1"], "loss": test["loss"]}
    of_choice = {key: uncalibrated[key] for key in ("top1", "loss", "macro_f1", "mean_class_accuracy")}
    assert found["val"] == ({"top1": 0.25, "loss": 1.5} if refit else of_choice)
    assert found["groups"] == {} and found["lr"] == {"all": 0.1} and found["best_epoch"] == 3


def test_the_metrics_for_dvc_are_few_rounded_and_with_the_temperature():
    splits = {"test": RAW, "train": RAW, "val": RAW}
    found = summary.metrics_summary(summary.results_summary(splits, CALIBRATED, INTERVALS, METADATA))
    raw, calibrated = metrics.compute_metrics(RAW), metrics.compute_metrics(CALIBRATED)
    low, high = INTERVALS["top1"]
    expected = {
        "top1": raw["top1"],
        "top1_ci": (high - low) / 2,
        "top5": raw["top5"],
        "class_acc": raw["mean_class_accuracy"],
        "macro_f1": raw["macro_f1"],
        "loss": calibrated["loss"],
        "ece": calibrated["ece"],
        "val_top1": raw["top1"],
        "val_loss": raw["loss"],
    }
    assert found == {name: round(value, 4) for name, value in expected.items()}
    assert found["loss"] != found["val_loss"] and found["top1"] != raw["top1"]
