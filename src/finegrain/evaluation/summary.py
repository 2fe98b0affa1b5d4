"""The numbers of one model's files of results, intervals and metrics."""

from collections.abc import Mapping
from typing import Any

from finegrain.evaluation import car_groups, metrics
from finegrain.models.outputs import Predictions

METRICS_DECIMALS = 4
"""Places after the point in metrics/: a hundredth of a percentage point. Longer numbers are not read."""
_CHANGED_BY_TEMPERATURE = ("loss", "ece")
_Intervals = dict[str, tuple[float, float]]


def intervals_summary(raw: Predictions, calibrated: Predictions) -> _Intervals:
    """95 % interval of each test metric; those that depend on the temperature also ``calibrated_...``."""
    with_temperature = metrics.confidence_intervals(calibrated)
    return metrics.confidence_intervals(raw) | _calibrated(with_temperature)


def results_summary(
    raw: Mapping[str, Predictions], calibrated: Predictions, intervals: _Intervals, metadata: dict[str, Any]
) -> dict[str, Any]:
    """Exact metrics of test, validation and train split, of car groups, and what training chose.

    Args:
        raw: predictions of each split without a temperature; without ``val`` for a model that was trained on
            the validation images too (``refit``): then the validation metrics that chose its epoch are used.
        calibrated: predictions of the test split with the temperature.
        intervals: from ``intervals_summary``.
        metadata: the model's sidecar.
    """
    scores = {split: metrics.compute_metrics(each) for split, each in raw.items()}
    scores.setdefault("val", {"top1": metadata["val_top1"], "loss": metadata["val_loss"]})
    low, high = intervals["top1"]
    test = scores["test"] | {"top1_low": low, "top1_high": high}
    groups = car_groups.from_class_names(metadata["classes"])
    labels, predicted = raw["test"].labels, raw["test"].predicted
    return {
        "test": test | _calibrated(metrics.compute_metrics(calibrated)),
        "val": {key: scores["val"][key] for key in ("top1", "loss")},
        "train": {key: scores["train"][key] for key in ("top1", "loss")},
        "groups": {kind: car_groups.group_summary(each, labels, predicted) for kind, each in groups.items()},
        "temperature": metadata["temperature"],
        "best_epoch": metadata["best_epoch"],
        "lr": metadata["lr"],
    }


def metrics_summary(results: Mapping[str, Any]) -> dict[str, float]:
    """The few metrics that `dvc metrics show`, `dvc metrics diff` and `dvc exp show` print, rounded.

    ``loss`` and ``ece`` are with the temperature, as the probabilities that `finegrain predict` gives;
    ``val_loss`` is without, as in the curves, because the temperature is fitted on the validation images.

    Args:
        results: from ``results_summary``.
    """
    test, val = results["test"], results["val"]
    values = {
        "top1": test["top1"],
        "top1_ci": (test["top1_high"] - test["top1_low"]) / 2,  # Wilson's interval is not quite symmetric
        "top5": test["top5"],
        "class_acc": test["mean_class_accuracy"],
        "macro_f1": test["macro_f1"],
        "loss": test["calibrated_loss"],
        "ece": test["calibrated_ece"],
        "val_top1": val["top1"],
        "val_loss": val["loss"],
    }
    return {name: round(value, METRICS_DECIMALS) for name, value in values.items()}


def _calibrated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that depend on the temperature, under the names that they have in both files."""
    return {f"calibrated_{key}": values[key] for key in _CHANGED_BY_TEMPERATURE}
