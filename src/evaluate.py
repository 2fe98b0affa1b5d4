"""Stage evaluate: score one trained model; the only script that opens the test split.

Reads   params.yaml; models/<name>/<run>.*; data/<name>/pack, manifest.csv and leave_one_out/<run>.npz
Writes  metrics/<name>/<run>.json, reports/<name>/results/<run>.json and intervals/<run>.json,
        reports/<name>/correct/<run>.csv and doubtful_labels/<run>.csv,
        data/<name>/predictions/<run>.parquet and gallery/<run>.json,
        plots/<name>/confusion/<run>.png, reliability/<run>.png and per_class/<run>.csv
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch import nn

from finegrain.config import base, params
from finegrain.core import disk, file_io, paths
from finegrain.evaluation import (
    doubtful_labels,
    gallery,
    metrics,
    plot_style,
    prediction_plots,
    predictions,
    summary,
)
from finegrain.loading.batches import PackedSplit
from finegrain.models import calibration, inference, outputs, storage
from finegrain.models.outputs import Predictions
from finegrain.runtime import devices


def main(argv: Sequence[str] | None = None) -> None:
    args = process.run_parser(__doc__, get_args(base.ModelName)).parse_args(argv)
    config = params.load_params()
    run = paths.Run(config.dataset.name, args.model, args.seed)
    data = paths.Dataset(config.dataset.name)
    disk.require_free_space(run.predictions, 50_000_000, "the predictions and plots of a model")
    device = devices.select_device(config.device)
    devices.set_deterministic(config.deterministic)

    net, metadata = storage.load_model(run.weights, run.sidecar)
    net = devices.place(net, device)
    mean_std = metadata["mean"], metadata["std"]
    names = ("test", "train") if metadata["refit"] else ("test", "val", "train")
    splits = {name: PackedSplit(data.pack, name, device, *mean_std) for name in names}
    predictions.require_same_data(data.manifest, splits["test"].fingerprint, run.weights, metadata["data"])
    image_size = config.evaluate.image_size or metadata["image_size"]
    raw, calibrated = predict(net, splits, image_size, metadata["temperature"], config)
    test = raw["test"], calibrated["test"]

    write_metrics(run, raw, calibrated["test"], metadata)
    table = predictions.predictions_table(data.manifest, *test, metadata["classes"])
    predictions.write_predictions(run.predictions, table)
    file_io.write_csv(run.correct, predictions.CORRECT_COLUMNS, predictions.correct_rows(table))
    trained_on, held_out = (["train", "val"], ["test"]) if metadata["refit"] else (["train"], ["val", "test"])
    found = [(held_out, doubtful_labels.held_out([calibrated[name] for name in held_out]))]
    if solved := doubtful_labels.read_leave_one_out(run.leave_one_out):
        found.append((trained_on, solved))
    doubts = doubtful_labels.find_doubtful(data.manifest, metadata["classes"], found)
    file_io.write_csv(run.doubtful_labels, doubtful_labels.COLUMNS, (label.table_row for label in doubts))
    if "val" not in splits:
        splits["val"] = PackedSplit(data.pack, "val", device, *mean_std)
    tiles = gallery.doubtful_tiles(splits, doubts)
    preprocess = inference.Preprocessor(image_size, device, *mean_std)
    images = gallery.build_gallery(net, preprocess, splits["test"], splits["train"], *test, tiles)
    file_io.write_json(run.gallery, images)
    write_plots(run, *test, metadata)


def predict(
    net: nn.Module,
    splits: Mapping[str, PackedSplit],
    image_size: int,
    temperature: float,
    config: params.Params,
) -> tuple[dict[str, Predictions], dict[str, Predictions]]:
    """Predictions of every split, without and with the temperature."""
    raw, calibrated = {}, {}
    device, flip = splits["test"].device, config.evaluate.flip
    dtype = devices.autocast_dtype(config.precision, device)
    with devices.exclusive_cores(device):
        for name, split in splits.items():
            logits, labels = inference.predict_split(net, split, image_size, dtype, flip, label=name)
            inference.require_no_overflow(logits, dtype)
            raw[name] = outputs.from_logits(logits.numpy(), labels.numpy())
            calibrated[name] = outputs.from_logits(logits.numpy(), labels.numpy(), temperature)
    return raw, calibrated


def write_metrics(
    run: paths.Run, raw: Mapping[str, Predictions], calibrated: Predictions, metadata: dict[str, Any]
) -> None:
    """Write the results of all splits, the intervals of the test metrics, and the few metrics for DVC."""
    intervals = summary.intervals_summary(raw["test"], calibrated)
    results = summary.results_summary(raw, calibrated, intervals, metadata)
    file_io.write_json(run.results, results)
    file_io.write_json(run.intervals, intervals)
    file_io.write_json(run.metrics, summary.metrics_summary(results))


def write_plots(run: paths.Run, raw: Predictions, calibrated: Predictions, metadata: dict[str, Any]) -> None:
    """Write the confusion matrix, the reliability diagram and the table of recall."""
    names = metadata["classes"]
    plot_style.save_png(prediction_plots.model_confusion_plot(raw, names), run.confusion)
    before, after = (calibration.reliability_bins(p.confidence, p.correct) for p in (raw, calibrated))
    reliability = prediction_plots.reliability_plot(before, after, metadata["temperature"])
    plot_style.save_png(reliability, run.reliability)
    images, recall = metrics.per_class_recall(raw.labels, raw.predicted, len(names))
    rows = zip(names, images.tolist(), recall.tolist(), strict=True)
    file_io.write_csv(run.per_class, ("class", "images", "recall"), rows)


if __name__ == "__main__":
    process.run_main(main)
