"""The metrics file: test metrics with intervals, and validation metrics of a model that saw those images."""

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
    found = summary.metrics_summary(raw, CALIBRATED, INTERVALS, METADATA)
    test, uncalibrated = found["test"], metrics.compute_metrics(RAW)
    assert {key: test[key] for key in uncalibrated} == uncalibrated
    assert (test["top1_low"], test["top1_high"]) == INTERVALS["top1"]
    assert test["calibrated_loss"] == metrics.compute_metrics(CALIBRATED)["loss"] != test["loss"]
    assert found["train"] == {"top1": test["top1"], "loss": test["loss"]}
    assert found["val"] == ({"top1": 0.25, "loss": 1.5} if refit else found["train"])
    assert found["groups"] == {} and found["lr"] == {"all": 0.1} and found["best_epoch"] == 3
