"""The numbers of one model's files of results, intervals and metrics."""

from collections.abc import Mapping
from typing import Any

from finegrain.evaluation import car_groups, metrics
from finegrain.models.outputs import Predictions

METRICS_DECIMALS = 4
"""Places after the point in metrics/: a hundredth of a percentage point. Longer numbers are not read."""
_CHOICE = ("top1", "loss", "macro_f1", "mean_class_accuracy")
"""The validation metrics that may choose between epochs and models."""
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
    of_choice = {f"val_{name}" for name in _CHOICE} & metadata.keys()
    scores.setdefault("val", {name.removeprefix("val_"): metadata[name] for name in of_choice})
    low, high = intervals["top1"]
    test = scores["test"] | {"top1_low": low, "top1_high": high}
    groups = car_groups.from_class_names(metadata["classes"])
    labels, predicted = raw["test"].labels, raw["test"].predicted
    return {
        "test": test | _calibrated(metrics.compute_metrics(calibrated)),
        "val": {key: scores["val"][key] for key in _CHOICE if key in scores["val"]},
        "train": {key: scores["train"][key] for key in ("top1", "loss")},
        "groups": {kind: car_groups.group_summary(each, labels, predicted) for kind, each in groups.items()},
        "choose_by": metadata.get("recipe", {}).get("choose_by", "top1"),
        "temperature": metadata["temperature"],
        "best_epoch": metadata["best_epoch"],
        "lr": metadata["lr"],
    }


def metrics_summary(results: Mapping[str, Any]) -> dict[str, float]:
    """The few metrics that `dvc metrics show`, `dvc metrics diff` and `dvc exp show` print, rounded.

    ``loss`` and ``ece`` are with the temperature, as the probabilities that `finegrain predict` gives;
    ``val_loss`` is without, as in the curves, because the temperature is fitted on the validation images.
    The other validation metric is the one that chose, or top-1 where the loss did.

    Args:
        results: from ``results_summary``.
    """
    test, val, choose_by = results["test"], results["val"], results.get("choose_by", "top1")
    accuracy = "top1" if choose_by == "loss" else choose_by
    values = {
        "top1": test["top1"],
        "top1_ci": (test["top1_high"] - test["top1_low"]) / 2,  # Wilson's interval is not quite symmetric
        "top5": test["top5"],
        "class_acc": test["mean_class_accuracy"],
        "macro_f1": test["macro_f1"],
        "loss": test["calibrated_loss"],
        "ece": test["calibrated_ece"],
        f"val_{column_name(accuracy)}": val[accuracy],
        "val_loss": val["loss"],
    }
    return {name: round(value, METRICS_DECIMALS) for name, value in values.items()}


def column_name(metric: str) -> str:
    """What DVC's tables call a metric."""
    return "class_acc" if metric == "mean_class_accuracy" else metric


def _calibrated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that depend on the temperature, under the names that they have in both files."""
    return {f"calibrated_{key}": values[key] for key in _CHANGED_BY_TEMPERATURE}
