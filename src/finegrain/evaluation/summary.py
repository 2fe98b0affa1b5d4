"""The numbers of one model's metrics file and intervals file."""

from collections.abc import Mapping
from typing import Any

from finegrain.evaluation import car_groups, metrics
from finegrain.models.outputs import Predictions

_CHANGED_BY_TEMPERATURE = ("loss", "ece")
_Intervals = dict[str, tuple[float, float]]


def intervals_summary(raw: Predictions, calibrated: Predictions) -> _Intervals:
    """95 % interval of each test metric; those that depend on the temperature also ``calibrated_...``."""
    with_temperature = metrics.confidence_intervals(calibrated)
    return metrics.confidence_intervals(raw) | _calibrated(with_temperature)


def metrics_summary(
    raw: Mapping[str, Predictions], calibrated: Predictions, intervals: _Intervals, metadata: dict[str, Any]
) -> dict[str, Any]:
    """Metrics of test, validation and train split, of car groups, and what training chose.

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


def _calibrated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that depend on the temperature, under the names that they have in both files."""
    return {f"calibrated_{key}": values[key] for key in _CHANGED_BY_TEMPERATURE}
