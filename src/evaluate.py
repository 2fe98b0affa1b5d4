"""Stage evaluate: score one trained model; the only script that opens the test split.

Reads   params.yaml; models/<name>/<run>.*; data/<name>/pack and manifest.csv
Writes  metrics/<name>/<run>.json, reports/<name>/intervals/<run>.json and right/<run>.csv,
        data/<name>/predictions/<run>.parquet and gallery/<run>.json,
        plots/<name>/confusion/<run>.png, reliability/<run>.png and per_class/<run>.csv
"""

from finegrain import stage  # isort: skip  (first: it ends this process with dvc)
import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from finegrain import (
    answers,
    calibration,
    chart,
    class_figures,
    disk,
    figures,
    gallery,
    groups,
    loop,
    model,
    packed,
    params,
    paths,
    predictions,
    record,
    runtime,
    scores,
)
from finegrain.answers import Answers


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="one of params.yaml `models`")
    parser.add_argument("--seed", type=int, required=True, help="one of params.yaml `seeds`")
    args = parser.parse_args(argv)
    config = params.read()
    run = paths.Run(config.dataset.name, args.model, args.seed)
    data = paths.Data(config.dataset.name)
    disk.require(run.predictions, 50_000_000, "the figures of a model")
    device = runtime.device(config.device)
    runtime.be_deterministic(config.deterministic)
    bf16 = runtime.bf16(config.precision, device)

    net, facts = model.load(run.weights, run.sidecar)
    net = net.to(device)
    side, flip = config.evaluate.side_pixels or facts["side_pixels"], config.evaluate.flip
    normal = facts["mean"], facts["std"]
    parts = ("test", "train") if facts["refit"] else ("test", "val", "train")
    splits = {part: packed.Split(data.pack, part, device, *normal) for part in parts}
    given: dict[str, tuple[Answers, Answers]] = {}
    with runtime.cores(device):
        for part, split in splits.items():
            logits, labels = loop.predict(net, split, side, bf16, flip, label=part)
            plain, calibrated = (
                answers.of(logits.numpy(), labels.numpy(), t) for t in (1.0, facts["temperature"])
            )
            given[part] = plain, calibrated
    quality = {part: scores.metrics(plain) for part, (plain, _) in given.items()}
    # a refit model has learnt from the validation images: what counts is how they chose it
    quality.setdefault("val", {"top1": facts["val_top1"], "loss": facts["val_loss"]})
    plain, calibrated = given["test"]
    intervals = scores.intervals(plain)
    test = quality["test"] | dict(zip(("top1_low", "top1_high"), intervals["top1"], strict=True))
    after = scores.metrics(calibrated)
    record.write_json(
        run.metrics,
        {
            "test": test | {f"calibrated_{key}": after[key] for key in ("loss", "ece")},
            "val": {key: quality["val"][key] for key in ("top1", "loss")},
            "train": {key: quality["train"][key] for key in ("top1", "loss")},
            "groups": {
                kind: groups.summary(group, plain.labels, plain.predicted)
                for kind, group in groups.of(facts["classes"]).items()
            },
            "temperature": facts["temperature"],
            "best_epoch": facts["best_epoch"],
            "lr": facts["lr"],
        },
    )
    calibrated_intervals = scores.intervals(calibrated)
    record.write_json(
        run.intervals,
        intervals | {f"calibrated_{key}": calibrated_intervals[key] for key in ("loss", "ece")},
    )
    table = predictions.table(data.manifest, plain, calibrated, facts["classes"])
    predictions.write(run.predictions, table)
    record.write_csv(run.right, predictions.RIGHT, predictions.right(table))
    view = packed.Whole(side, device, *normal)
    photos = gallery.build(net, view, splits["test"], splits["train"], plain, calibrated)
    record.write_json(run.gallery, photos)
    draw(run, plain, calibrated, facts)


def draw(run: paths.Run, plain: Answers, calibrated: Answers, facts: dict[str, Any]) -> None:
    """The figures of one model, and the table of recall."""
    names, temperature = facts["classes"], facts["temperature"]
    shown, of = np.arange(len(names)), None
    if len(names) > class_figures.MOST:
        most = scores.most_mistaken(plain.labels, plain.predicted, len(names), class_figures.SHOWN)
        shown, of = most, len(names)
    matrix = scores.confusion(plain.labels, plain.predicted, shown)
    images, recall = scores.recall(plain.labels, plain.predicted, len(names))
    chart.save(class_figures.confusion(matrix, [names[i] for i in shown], images[shown], of), run.confusion)
    before, after = (calibration.reliability(a.confidence, a.correct) for a in (plain, calibrated))
    chart.save(figures.reliability(before, after, temperature), run.reliability)
    rows = zip(names, images.tolist(), recall.tolist(), strict=True)
    record.write_csv(run.per_class, ("class", "images", "recall"), rows)


if __name__ == "__main__":
    stage.main(main)
