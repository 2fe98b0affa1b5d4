"""Stage evaluate: score one trained model; the only script that opens the test split.

Reads   params.yaml; models/<name>/<run>.*; data/<name>/pack and manifest.csv
Writes  metrics/<name>/<run>.json, reports/<name>/intervals/<run>.json and correct/<run>.csv,
        data/<name>/predictions/<run>.parquet and gallery/<run>.json,
        plots/<name>/confusion/<run>.png, reliability/<run>.png and per_class/<run>.csv
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from finegrain.config import params
from finegrain.core import disk, file_io, paths
from finegrain.evaluation import (
    calibration_plot,
    car_groups,
    class_plots,
    gallery,
    metrics,
    plot_style,
    predictions,
)
from finegrain.loading import batches
from finegrain.models import calibration, inference, outputs, storage
from finegrain.models.outputs import Predictions
from finegrain.runtime import devices


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="one of params.yaml `models`")
    parser.add_argument("--seed", type=int, required=True, help="one of params.yaml `seeds`")
    args = parser.parse_args(argv)
    config = params.load_params()
    run = paths.Run(config.dataset.name, args.model, args.seed)
    data = paths.Dataset(config.dataset.name)
    disk.require_free_space(run.predictions, 50_000_000, "the figures of a model")
    device = devices.select_device(config.device)
    devices.set_deterministic(config.deterministic)
    bf16 = devices.use_bf16(config.precision, device)

    net, facts = storage.load_model(run.weights, run.sidecar)
    net = net.to(device)
    side, flip = config.evaluate.image_size or facts["image_size"], config.evaluate.flip
    normal = facts["mean"], facts["std"]
    parts = ("test", "train") if facts["refit"] else ("test", "val", "train")
    splits = {part: batches.PackedSplit(data.pack, part, device, *normal) for part in parts}
    given: dict[str, tuple[Predictions, Predictions]] = {}
    with devices.exclusive_cores(device):
        for part, split in splits.items():
            logits, labels = inference.predict_split(net, split, side, bf16, flip, label=part)
            plain, calibrated = (
                outputs.from_logits(logits.numpy(), labels.numpy(), t) for t in (1.0, facts["temperature"])
            )
            given[part] = plain, calibrated
    quality = {part: metrics.compute_metrics(plain) for part, (plain, _) in given.items()}
    # a refit model has learnt from the validation images: what counts is how they chose it
    quality.setdefault("val", {"top1": facts["val_top1"], "loss": facts["val_loss"]})
    plain, calibrated = given["test"]
    intervals = metrics.confidence_intervals(plain)
    test = quality["test"] | dict(zip(("top1_low", "top1_high"), intervals["top1"], strict=True))
    after = metrics.compute_metrics(calibrated)
    file_io.write_json(
        run.metrics,
        {
            "test": test | {f"calibrated_{key}": after[key] for key in ("loss", "ece")},
            "val": {key: quality["val"][key] for key in ("top1", "loss")},
            "train": {key: quality["train"][key] for key in ("top1", "loss")},
            "groups": {
                kind: car_groups.group_summary(group, plain.labels, plain.predicted)
                for kind, group in car_groups.from_class_names(facts["classes"]).items()
            },
            "temperature": facts["temperature"],
            "best_epoch": facts["best_epoch"],
            "lr": facts["lr"],
        },
    )
    calibrated_intervals = metrics.confidence_intervals(calibrated)
    file_io.write_json(
        run.intervals,
        intervals | {f"calibrated_{key}": calibrated_intervals[key] for key in ("loss", "ece")},
    )
    table = predictions.predictions_table(data.manifest, plain, calibrated, facts["classes"])
    predictions.write_predictions(run.predictions, table)
    file_io.write_csv(run.correct, predictions.CORRECT_COLUMNS, predictions.correct_rows(table))
    view = inference.Preprocessor(side, device, *normal)
    photos = gallery.build_gallery(net, view, splits["test"], splits["train"], plain, calibrated)
    file_io.write_json(run.gallery, photos)
    draw(run, plain, calibrated, facts)


def draw(run: paths.Run, plain: Predictions, calibrated: Predictions, facts: dict[str, Any]) -> None:
    """The figures of one model, and the table of recall."""
    names, temperature = facts["classes"], facts["temperature"]
    shown, of = np.arange(len(names)), None
    if len(names) > class_plots.MAX_CLASSES:
        most = metrics.most_confused_classes(
            plain.labels, plain.predicted, len(names), class_plots.SHOWN_CLASSES
        )
        shown, of = most, len(names)
    matrix = metrics.confusion_matrix(plain.labels, plain.predicted, shown)
    images, recall = metrics.per_class_recall(plain.labels, plain.predicted, len(names))
    plot_style.save_png(
        class_plots.confusion_plot(matrix, [names[i] for i in shown], images[shown], of), run.confusion
    )
    before, after = (calibration.reliability_bins(a.confidence, a.correct) for a in (plain, calibrated))
    plot_style.save_png(calibration_plot.reliability_plot(before, after, temperature), run.reliability)
    rows = zip(names, images.tolist(), recall.tolist(), strict=True)
    file_io.write_csv(run.per_class, ("class", "images", "recall"), rows)


if __name__ == "__main__":
    process.run_main(main)
