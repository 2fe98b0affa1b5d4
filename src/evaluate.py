"""Stage evaluate: score one trained model; the only script that opens the test split.

Reads   params.yaml; models/<name>/<model>.*; data/<name>/pack and manifest.csv
Writes  metrics/<name>/<model>.json, data/<name>/predictions/<model>.csv,
        plots/<name>/confusion/<model>.png and per_class/<model>.csv
"""

from finegrain import stage  # isort: skip  (first: it ends this process with dvc)
import argparse
from collections.abc import Sequence

from finegrain import runtime  # isort: skip  (before torch: it sets the allocator)
import numpy as np

from finegrain import (
    chart,
    checkpoint,
    class_figures,
    disk,
    loop,
    model,
    packed,
    params,
    paths,
    predictions,
    record,
    scores,
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="one of params.yaml `models`")
    name = parser.parse_args(argv).model
    config = params.read()
    run, data = paths.Run(config.dataset.name, name), paths.Data(config.dataset.name)
    checkpoint.remove_recorded()  # the training's outs stand in dvc.lock by now
    disk.require(run.predictions, 50_000_000, "the figures of a model")
    device = runtime.device(config.device)
    runtime.be_deterministic(config.deterministic)
    bf16 = runtime.bf16(config.precision, device)

    net, facts = model.load(run.weights, run.sidecar)
    net = net.to(device)
    side, flip = config.evaluate.side_pixels or facts["side_pixels"], config.evaluate.flip
    results, probabilities = {}, {}
    for part in ("test", "train") if facts["refit"] else ("test", "val", "train"):
        split = packed.Split(data.pack, part, device, facts["mean"], facts["std"])
        logits, labels = loop.predict(net, split, side, bf16, flip, label=part)
        probabilities[part] = scores.softmax(logits.numpy().astype(np.float64))
        results[part] = scores.metrics(probabilities[part], labels.numpy())
        if part == "test":
            truth = labels.numpy()
    # a refit model has learnt from the validation images: what counts is how they chose it
    val = results.get("val") or {"top1": facts["val_top1"], "loss": facts["val_loss"]}
    record.write_json(
        run.metrics,
        {
            "test": results["test"],
            "val": {k: val[k] for k in ("top1", "loss")},
            "train": {k: results["train"][k] for k in ("top1", "loss")},
            "best_epoch": facts["best_epoch"],
            "lr": facts["lr"],
        },
    )
    names = facts["classes"]
    predictions.write(run.predictions, data.manifest, probabilities["test"], truth, names)
    predicted = probabilities["test"].argmax(1)
    shown, of = np.arange(len(names)), None
    if len(names) > class_figures.MOST:
        shown, of = scores.most_mistaken(truth, predicted, len(names), class_figures.SHOWN), len(names)
    matrix = scores.confusion(truth, predicted, shown)
    chart.save(class_figures.confusion(matrix, [names[i] for i in shown], of), run.confusion)
    images, recall = scores.recall(truth, predicted, len(names))
    rows = zip(names, images.tolist(), recall.tolist(), strict=True)
    record.write_csv(run.per_class, ("class", "images", "recall"), rows)


if __name__ == "__main__":
    stage.main(main)
