"""Trainings by ``loop.fit`` on a tiny pack, which save and are killed at chosen moments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finegrain.config.params import Params
from finegrain.loading import batches
from finegrain.models import build
from finegrain.training import checkpoint, loop
from finegrain.training.history import TrainingHistory
from finegrain.training.train_step import TrainingSetup


class Killed(Exception):
    """Stands for a kill: leaves fit() at once."""


class Scripted(checkpoint.Checkpointer):
    """Saves, and is killed, in chosen calls of ``due``, counted from 1."""

    def __init__(self, key: dict[str, Any], saves: Sequence[int], killed_at: int | None) -> None:
        super().__init__("tiny", key)
        self.calls, self.saves, self.killed_at = 0, saves, killed_at

    def due(self) -> bool:
        self.calls += 1
        if self.calls == self.killed_at:
            raise Killed
        return self.calls in self.saves


def split(folder: Path, names: str) -> batches.PackedSplit:
    """A split on the CPU, normalized by the statistics of the training images."""
    mean_std = batches.normalization_mean_std(folder, "train", None)
    return batches.PackedSplit(folder, names, torch.device("cpu"), *mean_std)


def run(
    pack: Path,
    config: Params,
    killed_at: int | None = None,
    name: str = "resnet18",
    names: tuple[str, str | None] = ("train", "val"),
    plan: TrainingHistory | None = None,
    saves: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[nn.Module, TrainingHistory]:
    """Train from the checkpoint of an earlier call with these settings, if one was left."""
    train, val = (split(pack, n) if n else None for n in names)
    assert train
    classes = len(train.class_names)
    net = build.build_model(name, classes, "none", config.head, 0)
    history = TrainingHistory(config.choose_by)
    key = {"config": config.model_dump(mode="json"), "names": names}
    with Scripted(key, saves, killed_at) as checkpointer:
        setup = TrainingSetup(net, config, seed, train, dtype, name)
        for _ in loop.fit(setup, val, checkpointer, history, plan):
            pass
        checkpointer.finish(Path("weights"))
    return net, history


def deterministic(history: TrainingHistory) -> list[dict[str, Any]]:
    """The rows without times."""
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in history.rows]


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(v, second[k]) for k, v in first.items())
