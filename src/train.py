"""Stage train: run the recipe of params.yaml for one model.

Reads   params.yaml; data/<name>/pack (train and val only)
Writes  models/<name>/<model>.safetensors and .json, metrics/<name>/cost/<model>.json,
        plots/<name>/{history,loss,lr}/<model>.csv
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from finegrain import runtime  # isort: skip  (sets the allocator before torch is imported)
import torch

from finegrain import checkpoint, loop, model, packed, params, paths, record
from finegrain.errors import UserError

HISTORY = ("epoch", "phase", "side_pixels", "lr", "train_loss", "train_top1", "val_loss", "val_top1")
LOSS, LR = ("epoch", "train_loss", "val_loss"), ("epoch", "lr")
USED = {"dataset", "seed", "weights", "lr", "batch_size", "label_smoothing", "augment", "phases", "precision"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="one of params.yaml `models`")
    name = parser.parse_args(argv).model
    config = params.read()
    run, data = paths.Run(config.dataset.name, name), paths.Data(config.dataset.name)
    device = runtime.device(config.device)
    bf16 = runtime.bf16(config.precision, device)

    pretrained = model.pretrained(config.weights)
    train, val = (packed.Split(data.pack, part, device, pretrained) for part in ("train", "val"))
    net = model.build(name, len(train.class_names), config.weights, config.seed).to(device)
    environment = runtime.environment(device, bf16)
    recipe = config.model_dump(mode="json", include=USED)
    recipe["dataset"] = config.dataset.name
    key = {"model": name, "recipe": recipe, "data": train.fingerprint, "environment": environment}
    code = [Path(__file__), *Path(params.__file__).parent.glob("*.py")]
    best = loop.Best()
    with checkpoint.Keeper(f"{config.dataset.name}-{name}", key, code) as keeper:
        try:
            rows = []
            for row in loop.fit(net, config, train, val, keeper, best, bf16):
                rows.append(row)
                for file, columns in ((run.history, HISTORY), (run.loss, LOSS), (run.lr, LR)):
                    record.write_csv(file, columns, ([row[c] for c in columns] for row in rows))
                record.say(
                    f"{name} epoch {row['epoch']}: train loss {row['train_loss']:.3f}, "
                    f"val loss {row['val_loss']:.3f}, val top-1 {row['val_top1']:.2%}"
                )
        except torch.OutOfMemoryError:
            raise UserError(
                f"params.yaml: batch_size: {config.batch_size} does not fit the GPU's memory; halve it"
            ) from None
        facts = {
            "model": name,
            "classes": train.class_names,
            "side_pixels": best.row["side_pixels"],
            "pack_side_pixels": train.side_pixels,
            "mean": train.mean,
            "std": train.std,
            "best_epoch": best.row["epoch"],
            "val_top1": best.row["val_top1"],
            "recipe": recipe,
            "data": train.fingerprint,
            "environment": environment,
            "revision": record.revision(),
        }
        model.save(run.weights, run.sidecar, best.weights, facts)
        images = sum(row["train_images"] for row in rows)
        cost = {
            "seconds": round(sum(row["seconds"] for row in rows), 2),
            "images_per_second": round(images / sum(row["train_seconds"] for row in rows), 1),
            "parameters": model.parameters(net),
            "peak_memory_bytes": runtime.peak_memory_bytes(device),
        }
        record.write_json(run.cost, cost)


if __name__ == "__main__":
    record.main(main)
