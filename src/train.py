"""Stage train: run the recipe of params.yaml for one model and seed.

Reads   params.yaml; data/<name>/pack (train and val only)
Writes  models/<name>/<run>.safetensors and .json, metrics/<name>/cost/<run>.json,
        plots/<name>/{history,loss,lr}/<run>.csv and plots/<name>/lr_range/<run>/, <run> being <model>-<seed>
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
import argparse
import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from finegrain.config import params
from finegrain.config.training import AdamW
from finegrain.core import disk, file_io, log, paths
from finegrain.loading import batches
from finegrain.models import build, calibration, inference, outputs, storage
from finegrain.runtime import devices, distributed, provenance
from finegrain.runtime.distributed import World
from finegrain.training import checkpoint, loop, lr_finder
from finegrain.training.history import EpochRow, TrainingHistory

HISTORY = ("epoch", "phase", "image_size", "lr", "train_loss", "train_top1", "val_loss", "val_top1")
LOSS, LR = ("epoch", "train_loss", "val_loss"), ("epoch", "lr")
LR_RANGE = ("log10_lr", "lr", "loss", "smoothed_loss")
"""DVC's plots have no logarithmic axis: the logarithm is a column."""
PACKAGES = ("core", "config", "runtime", "loading", "augmentation", "models", "training")
"""Those that dvc.yaml declares: an edit of any other leaves an interrupted training's checkpoint valid."""
USED = {
    *("dataset", "weights", "head", "normalization", "lr", "batch_size", "label_smoothing"),
    *("ema_decay", "augment", "phases", "refit", "lr_range_test", "precision", "deterministic"),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="one of params.yaml `models`")
    parser.add_argument("--seed", type=int, required=True, help="one of params.yaml `seeds`")
    args = parser.parse_args(argv)
    config = params.load_params()
    on = devices.select_device(config.device)
    if config.devices > 1 and not distributed.is_launched():
        distributed.require_gpus(config.devices, on)
        distributed.launch(config.devices, __file__, ["--model", args.model, "--seed", str(args.seed)])
        return
    with distributed.join_world(on) as world:
        train(config, paths.Run(config.dataset.name, args.model, args.seed), world)


def train(config: params.Params, run: paths.Run, world: World) -> None:
    """The stage, in each of the processes that train together; the first one keeps and writes."""
    config.require_divisible_by(world.size)
    data, seed, device = paths.Dataset(config.dataset.name), run.seed, world.device
    devices.set_deterministic(config.deterministic)
    bf16 = devices.use_bf16(config.precision, device)

    normal = batches.normalization_mean_std(
        data.pack, config.normalization, build.is_pretrained(config.weights)
    )
    train, val = (batches.PackedSplit(data.pack, part, device, *normal, world) for part in ("train", "val"))
    environment = provenance.environment(device, bf16) | {"devices": world.size}
    recipe = config.model_dump(mode="json", include=USED)
    recipe["dataset"] = config.dataset.name
    key = {"model": run.model, "seed": seed, "recipe": recipe}
    key |= {"data": train.fingerprint, "environment": environment}
    key["code"] = checkpoint.hash_code(Path(__file__), PACKAGES)
    keepers: list[checkpoint.Checkpointer] = []

    def new_network() -> nn.Module:
        return build.build_model(run.model, len(train.class_names), config.weights, config.head, seed).to(
            device
        )

    def kept(name: str, net: nn.Module) -> checkpoint.SharedCheckpointer:
        keeper = None
        if world.is_main_process:
            keeper = checkpoint.Checkpointer(name, key, config.checkpoint_seconds, waits=world.is_single)
            keepers.append(stack.enter_context(keeper))
            keeper.require_room(state_bytes(net, config))
        return checkpoint.SharedCheckpointer(keeper, world)

    net, chosen, final = new_network(), TrainingHistory(), TrainingHistory()
    disk.require_free_space(run.weights, build.weights_bytes(net), "the model")
    with contextlib.ExitStack() as stack:
        keeper = kept(f"{run.dataset}-{run.name}", net)
        if world.is_single:
            stack.enter_context(devices.exclusive_cores(device))
        for row in loop.fit(net, config, seed, train, val, keeper, chosen, bf16):
            if world.is_main_process:
                write_history(run, chosen)
            said = f"val loss {row['val_loss']:.3f}, val top-1 {row['val_top1']:.2%}"
            log.info(f"{run.name} epoch {row['epoch']}: train loss {row['train_loss']:.3f}, {said}")
        net.load_state_dict(chosen.weights)
        logits, labels = inference.predict_split(net, val, chosen.best["image_size"], bf16)
        temperature = calibration.fit_temperature(logits.numpy(), labels.numpy())
        told = outputs.from_logits(logits.numpy(), labels.numpy(), temperature)
        seen = train
        if config.refit:
            for part in (train, val):
                part.release()  # the next one holds the same images
            seen = batches.PackedSplit(data.pack, "train+val", device, *normal, world)
            net = new_network()
            keeper = kept(f"{run.dataset}-{run.name}-refit", net)
            for row in loop.fit(net, config, seed, seen, None, keeper, final, bf16, plan=chosen):
                log.info(f"{run.name} refit, epoch {row['epoch']}: train loss {row['train_loss']:.3f}")
        result = final if config.refit else chosen
        facts = {
            "model": run.model,
            "seed": seed,
            "classes": train.class_names,
            "image_size": result.best["image_size"],
            "pack_image_size": train.image_size,
            "mean": normal[0],
            "std": normal[1],
            "lr": chosen.lrs,
            "lr_suggestions": {phase: lr_finder.suggestions(p) for phase, p in chosen.sweeps.items()},
            "best_epoch": chosen.best["epoch"],
            "val_top1": chosen.best["val_top1"],
            "val_loss": chosen.best["val_loss"],
            "temperature": temperature,
            "unknown_below": calibration.fit_unknown_threshold(told.confidence, told.correct),
            "refit": config.refit,
            "recipe": recipe,
            "data": train.fingerprint,
            "environment": environment,
            "revision": provenance.git_revision(),
        }
        if world.is_main_process:
            storage.save_model(run.weights, run.sidecar, result.weights, facts)
            write_sweeps(run, chosen, list(config.phases))
            file_io.write_json(run.cost, cost(net, [*chosen.rows, *final.rows], device))
        for each in keepers:
            each.finish(run.weights)


def state_bytes(net: nn.Module, config: params.Params) -> int:
    """Of a checkpoint: the network, the best one, the moving average, the optimizer's one or two moments."""
    moments = max(2 if isinstance(phase.optimizer, AdamW) else 1 for phase in config.phases.values())
    return (2 + moments + bool(config.ema_decay)) * build.weights_bytes(net)


def write_history(run: paths.Run, progress: TrainingHistory) -> None:
    for file, columns in ((run.history, HISTORY), (run.loss, LOSS), (run.lr, LR)):
        file_io.write_csv(file, columns, ([row[c] for c in columns] for row in progress.rows))


def write_sweeps(run: paths.Run, progress: TrainingHistory, phases: Sequence[str]) -> None:
    """A CSV for every phase, as DVC wants the folder whatever the recipe; no rows without a test."""
    for phase in phases:
        rows = ((math.log10(p.lr), p.lr, p.loss, p.smoothed_loss) for p in progress.sweeps.get(phase, []))
        file_io.write_csv(run.lr_range / f"{phase}.csv", LR_RANGE, rows)


def cost(net: nn.Module, rows: Sequence[EpochRow], device: torch.device) -> dict[str, float]:
    images = sum(row["train_images"] for row in rows)
    return {
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        "images_per_second": round(images / sum(row["train_seconds"] for row in rows), 1),
        "parameters": build.count_parameters(net),
        "peak_memory_bytes": devices.peak_memory_bytes(device),
    }


if __name__ == "__main__":
    process.run_main(main)
