"""One run: from the packed images to a saved model, its history and its cost."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from finegrain.config import params
from finegrain.config.phases import AdamW, SolvedPhase
from finegrain.core import disk, file_io, log, paths
from finegrain.core.errors import UserError
from finegrain.loading.batches import PackedSplit, normalization_mean_std
from finegrain.models import build, calibration, outputs, pretrained, storage
from finegrain.runtime import devices, provenance
from finegrain.runtime.distributed import World
from finegrain.training import loop, lr_finder
from finegrain.training.checkpoint import Checkpointer, SharedCheckpointer
from finegrain.training.history import TrainingHistory
from finegrain.training.train_step import TrainingSetup

HISTORY = ("epoch", "phase", "image_size", "lr", "train_loss", "train_top1", "val_loss", "val_top1")
LOSS, LR = ("epoch", "train_loss", "val_loss"), ("epoch", "lr")
LR_RANGE = ("log10_lr", "lr", "loss", "smoothed_loss")
"""DVC's plots have no logarithmic axis: the logarithm is a column."""
RECIPE_KEYS = {
    *("dataset", "weights", "head", "normalization", "lr", "batch_size", "label_smoothing"),
    *("class_weights", "choose_by"),
    *("ema_decay", "augment", "phases", "refit", "lr_range_test", "precision", "deterministic"),
}
"""Parameters that the result depends on, which the saved model records."""


class TrainingRun:
    """One training, in each of the processes that train together; the main process writes the files.

    A context manager, which holds the locks of the checkpoints and of the machine's cores.
    """

    def __init__(self, config: params.Params, files: paths.Run, world: World, code: str) -> None:
        """Open the training and validation splits.

        Args:
            files: names the model and the seed.
            code: hash of the code, part of the key of the checkpoints.

        Raises:
            UserError: a batch size cannot be divided among the processes; the pack is missing or damaged, or
                has too few images for so many processes.
        """
        config.require_divisible_batches(world.size)
        devices.set_deterministic(config.deterministic)
        self.config, self.files, self.world, self._code = config, files, world, code
        self._locks = contextlib.ExitStack()
        self._pack = paths.Dataset(config.dataset.name).pack
        self.weights = pretrained.read_weights(files.model, config.weights_of(files.model))
        for name, phase in config.phases.items():
            if self.weights != "none" and phase.head:
                self.weights.require_stages(phase.head, f"phases.{name}.head")
        expected = None if self.weights == "none" else self.weights.mean_std
        self.mean_std = normalization_mean_std(self._pack, config.normalization, expected)
        self.train_split, self.val_split = self.split("train"), self.split("val")
        if config.trained_phases and len(self.train_split) < 2 * world.size:
            raise UserError(
                f"params.yaml: devices: {world.size} processes need at least two images each for batch norm, "
                f"but there are {len(self.train_split)} training images; use fewer devices or add images"
            )
        self.dtype = devices.autocast_dtype(config.precision, world.device)
        first = next(phase for phase in config.phases.values() if not phase.head)
        trained_head = None if isinstance(first, SolvedPhase) else config.head
        recipe = config.model_dump(mode="json", include=RECIPE_KEYS)
        self.identity: dict[str, Any] = {
            "model": files.model,
            "seed": files.seed,
            "recipe": {**recipe, "weights": config.weights_of(files.model), "dataset": config.dataset.name},
            "initial_weights": pretrained.record(self.weights, self.train_split.class_names, trained_head),
            "data": self.train_split.fingerprint,
            "environment": provenance.environment(world.device, self.dtype) | {"devices": world.size},
        }
        """All that the result depends on, except the code."""

    def __enter__(self) -> "TrainingRun":
        return self

    def __exit__(self, *_: object) -> None:
        self._locks.close()

    def split(self, names: str) -> PackedSplit:
        return PackedSplit(self._pack, names, self.world.device, *self.mean_std, self.world)

    def train(self) -> None:
        """Train, calibrate, train again on train + val if the recipe wants it, and save the model."""
        setup, chosen = self.setup(self.train_split), TrainingHistory(self.config.choose_by)
        for note in notes_on_settings(self.config, self.files.model, self.train_split.image_size):
            log.info(f"note: {note}")
        if self.world.is_main_process and self.weights != "none":
            log.info(f"{self.files.name} {pretrained.describe(self.identity['initial_weights'])}")
        disk.require_free_space(self.files.weights, build.weights_bytes(setup.net), "the model")
        checkpoints = [self.open_checkpoints(setup.net)]
        if self.world.is_single:
            self._locks.enter_context(devices.exclusive_cores(self.world.device))
        self.fit(setup, checkpoints[0], chosen)
        calibrated = self.calibrate(chosen)
        histories = [chosen]
        if self.config.refit:
            for split in (self.train_split, self.val_split):
                split.release()  # the joint split holds the same images
            setup = self.setup(self.split("train+val"))
            checkpoints.append(self.open_checkpoints(setup.net, "-refit"))
            histories.append(self.refit(setup, checkpoints[1], chosen))
        if self.world.is_main_process:
            metadata = self.metadata(chosen, histories[-1]) | calibrated
            storage.save_model(self.files.weights, self.files.sidecar, histories[-1].weights, metadata)
            write_lr_range_tests(self.files, chosen, list(self.config.phases))
            write_leave_one_out(self.files, histories[-1])
            file_io.write_json(self.files.cost, self.cost(setup.net, histories))
        for each in checkpoints:
            each.finish(self.files.weights)

    def fit(self, setup: TrainingSetup, checkpoints: SharedCheckpointer, history: TrainingHistory) -> None:
        """Train with validation; the history's files are current after every epoch."""
        for row in loop.fit(setup, self.val_split, checkpoints, history):
            if self.world.is_main_process:
                write_history(self.files, history)
            validation = f"val loss {row['val_loss']:.3f}, val top-1 {row['val_top1']:.2%}"
            if (chosen_by := f"val_{self.config.choose_by}") not in HISTORY:
                validation += f", val {self.config.choose_by.replace('_', ' ')} {row[chosen_by]:.2%}"
            log.info(
                f"{self.files.name} epoch {row['epoch']}: train loss {row['train_loss']:.3f}, {validation}"
            )

    def refit(
        self, setup: TrainingSetup, checkpoints: SharedCheckpointer, plan: TrainingHistory
    ) -> TrainingHistory:
        """Train without validation, with the epochs and learning rates of ``plan``."""
        history = TrainingHistory()
        for row in loop.fit(setup, None, checkpoints, history, plan):
            log.info(f"{self.files.name} refit, epoch {row['epoch']}: train loss {row['train_loss']:.3f}")
        return history

    def setup(self, train: PackedSplit) -> TrainingSetup:
        """A new network and what to train it with."""
        config, model, seed = self.config, self.files.model, self.files.seed
        net = build.build_model(model, train.class_names, self.weights, config.head, seed)
        net = devices.place(net, self.world.device)
        return TrainingSetup(net, config, seed, train, self.dtype, model, self.weights, self._code)

    def open_checkpoints(self, net: nn.Module, suffix: str = "") -> SharedCheckpointer:
        """The checkpoints of this very run; in the main process locked and with room on the disk."""
        if not self.world.is_main_process:
            return SharedCheckpointer(None, self.world)
        name, key = f"{self.files.dataset}-{self.files.name}{suffix}", self.identity | {"code": self._code}
        seconds, waits = self.config.checkpoint_seconds, self.world.is_single
        checkpointer = self._locks.enter_context(Checkpointer(name, key, seconds, waits))
        checkpointer.require_room(self.checkpoint_bytes(net))
        return SharedCheckpointer(checkpointer, self.world)

    def calibrate(self, chosen: TrainingHistory) -> dict[str, float]:
        """Temperature and threshold of the chosen weights, fitted on validation."""
        assert chosen.val_logits is not None
        logits, labels = chosen.val_logits.numpy(), self.val_split.labels.numpy()
        temperature = calibration.fit_temperature(logits, labels)
        predictions = outputs.from_logits(logits, labels, temperature)
        threshold = calibration.fit_unknown_threshold(predictions.confidence, predictions.correct)
        return {"temperature": temperature, "unknown_below": threshold}

    def metadata(self, chosen: TrainingHistory, final: TrainingHistory) -> dict[str, Any]:
        """What is saved beside the weights: how to use them, and where they come from."""
        mean, std = self.mean_std
        return self.identity | {
            "classes": self.train_split.class_names,
            "image_size": final.best["image_size"],
            "pack_image_size": self.train_split.image_size,
            "pack_fit": self.train_split.fit,
            "mean": mean,
            "std": std,
            "lr": chosen.lrs,
            "lr_suggestions": {k: lr_finder.suggestions(v) for k, v in chosen.lr_range_tests.items()},
            "solved": chosen.solved,
            "leave_one_out": final.leave_one_out_top1(),
            "best_epoch": chosen.best["epoch"],
            **{name: value for name, value in chosen.best.items() if name.startswith("val_")},
            "refit": self.config.refit,
            "revision": provenance.git_revision(),
        }

    def checkpoint_bytes(self, net: nn.Module) -> int:
        """Size of a checkpoint: the network, the best one, the average, the moments of the optimizer.

        While a phase trains a head of its own, the run's own network is kept too.
        """
        config, classes = self.config, len(self.train_split.class_names)
        sizes, moments = [build.weights_bytes(net)], 0
        for phase in config.trained_phases.values():
            moments = max(moments, 2 if isinstance(phase.optimizer, AdamW) else 1)
            if phase.head:
                with torch.device("meta"):
                    own = build.build_model(self.files.model, classes, "none", phase.head, 0)
                sizes.append(build.weights_bytes(own))
        logits = 4 * len(self.val_split) * classes
        copies = 2 + moments + bool(config.ema_decay) + (len(sizes) > 1)
        return copies * max(sizes) + logits

    def cost(self, net: nn.Module, histories: Sequence[TrainingHistory]) -> dict[str, float]:
        rows = [row for history in histories for row in history.rows]
        images = sum(row["train_images"] for row in rows)
        return {
            "seconds": round(sum(row["seconds"] for row in rows), 2),
            "images_per_second": round(images / sum(row["train_seconds"] for row in rows), 1),
            "parameters": build.count_parameters(net),
            "peak_memory_bytes": devices.peak_memory_bytes(self.world.device),
            "skipped_steps": sum(row.get("skipped_steps", 0) for row in rows),
        }


def notes_on_settings(config: params.Params, model: str, pack_image_size: int) -> Iterator[str]:
    """What params.yaml may say but seldom means.

    Args:
        pack_image_size: height and width of the packed images in pixels.
    """
    for name, phase in config.phases.items():
        largest = phase.image_size if isinstance(phase.image_size, int) else max(phase.image_size)
        if largest > pack_image_size:
            yield (
                f"phases.{name}.image_size: {largest} is above pack.image_size, {pack_image_size}: images "
                "are enlarged, which adds no detail"
            )
    name, phase = next(iter(config.phases.items()))
    if isinstance(phase, SolvedPhase) and config.weights_of(model) == "none":
        yield f"phases.{name} solves a head on a network of random weights; weights: DEFAULT is pretrained"


def write_history(run: paths.Run, history: TrainingHistory) -> None:
    chosen_by = tuple(dict.fromkeys((*HISTORY, f"val_{history.choose_by}")))
    for file, columns in ((run.history, chosen_by), (run.loss, LOSS), (run.lr, LR)):
        file_io.write_csv(file, columns, ([row[c] for c in columns] for row in history.rows))


def write_leave_one_out(run: paths.Run, history: TrainingHistory) -> None:
    """Write the leave-one-out predictions of the training images; DVC wants the file always."""
    with file_io.replace_file(run.leave_one_out) as temporary, temporary.open("wb") as stream:
        arrays: dict[str, Any] = {key: value.numpy() for key, value in history.leave_one_out.items()}
        np.savez(stream, **arrays)


def write_lr_range_tests(run: paths.Run, history: TrainingHistory, phases: Sequence[str]) -> None:
    """Write a CSV for every phase, without rows where there was no test: DVC wants the folder always."""
    for phase in phases:
        points = history.lr_range_tests.get(phase, [])
        rows = ((math.log10(p.lr), p.lr, p.loss, p.smoothed_loss) for p in points)
        file_io.write_csv(run.lr_range / f"{phase}.csv", LR_RANGE, rows)
