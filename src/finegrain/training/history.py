"""What a training run learns besides the weights in training, and the eye it keeps on its loss."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from finegrain.runtime.distributed import World
from finegrain.training.lr_finder import LRPoint

EpochRow = dict[str, Any]


@dataclass
class EpochTotals:
    """What an unfinished epoch has added up: on the device, so that no step waits for it."""

    loss: Tensor
    """Of all images, a scalar."""
    correct: Tensor
    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    """Until the checkpoint that this epoch was resumed from."""

    @classmethod
    def zero(cls, device: torch.device) -> "EpochTotals":
        return cls(torch.zeros((), device=device), torch.zeros((), device=device, dtype=torch.int64))

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """A step: its mean loss, logits ``[N, classes]`` and class ids ``[N]``."""
        self.loss += loss * len(labels)
        self.correct += (logits.argmax(1) == labels).sum()
        self.images += len(labels)
        self.steps += 1

    def of_all(self, world: World) -> "EpochTotals":
        """Added up over all processes, of which each has had as many images."""
        whole = self.to(self.loss.device)
        world.all_reduce(whole.loss, whole.correct)
        return replace(whole, images=self.images * world.size)

    def part(self, world: World) -> "EpochTotals":
        """What this process begins with, so that ``of_all`` gives these sums again."""
        mine = self.to(world.device)
        if not world.is_main_process:
            mine.loss.zero_()
            mine.correct.zero_()
        return replace(mine, images=self.images // world.size)

    def to(self, device: torch.device) -> "EpochTotals":
        return replace(self, loss=self.loss.to(device, copy=True), correct=self.correct.to(device, copy=True))


@dataclass
class TrainingHistory:
    """Fills while ``loop.fit`` yields; a checkpoint holds all of it."""

    rows: list[EpochRow] = field(default_factory=list)
    """The history, a row an epoch."""
    lrs: dict[str, float] = field(default_factory=dict)
    """Peak rate of each phase begun."""
    sweeps: dict[str, list[LRPoint]] = field(default_factory=dict)
    """The LR range test of each phase that had one."""
    stopped: list[str] = field(default_factory=list)
    """Phases that ended before their last epoch because validation got no better."""
    best: EpochRow = field(default_factory=dict)
    """The row of the epoch whose weights are kept."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """Those weights, on the CPU."""
    sums: EpochTotals | None = None
    """Of the epoch that a checkpoint was written in the middle of."""

    def epochs(self, phase: str) -> int:
        """Epochs of the phase that are done."""
        return sum(row["phase"] == phase for row in self.rows)

    def epochs_since_best(self, phase: str) -> int:
        """Epochs of the phase after its best one."""
        scores = [_score(row) for row in self.rows if row["phase"] == phase]
        return len(scores) - 1 - scores.index(max(scores))

    def add(self, row: EpochRow, net: nn.Module) -> None:
        """Note an epoch; keep a copy of its weights where it is the best so far by validation.

        The highest top-1 is the best, the lowest loss among equals. Without validation the last one is kept.
        """
        self.rows.append(row)
        self.sums = None
        if not self.best or "val_top1" not in row or _score(row) > _score(self.best):
            self.best = row
            self.weights = {k: v.detach().to("cpu", copy=True) for k, v in net.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """As plain values and tensors, for a checkpoint."""
        sweeps = {k: [(p.lr, p.loss, p.smoothed_loss) for p in v] for k, v in self.sweeps.items()}
        return {**vars(self), "sweeps": sweeps, "sums": vars(self.sums) if self.sums else None}

    def restore(self, state: dict[str, Any]) -> None:
        """The best epoch too, or the first one after a resume would overwrite a better model."""
        vars(self).update(state)
        self.sweeps = {k: [LRPoint(*p) for p in v] for k, v in state["sweeps"].items()}
        self.sums = EpochTotals(**state["sums"]) if state["sums"] else None


def _score(row: EpochRow) -> tuple[float, float]:
    return (row["val_top1"], -row["val_loss"])


class NonFiniteLossDetector:
    """Finds the first loss of an epoch that is not finite, without the host waiting for the device.

    On a GPU each loss is copied to pinned memory behind the step that made it, and looked at once the copy
    has arrived: the run stops a few steps late at most.
    """

    def __init__(self, steps: int, device: torch.device, first: int = 0) -> None:
        """Of an epoch of so many steps, from the first one that is still to do."""
        self._cuda = device.type == "cuda"
        self.losses = torch.zeros(steps, pin_memory=self._cuda)
        self._copies: deque[tuple[int, Any]] = deque()
        self._next = first

    def put(self, loss: Tensor) -> None:
        """The loss of the next step, a scalar on the device."""
        self.losses[self._next].copy_(loss, non_blocking=True)
        arrived = torch.cuda.Event() if self._cuda else None
        if arrived:
            arrived.record()
        self._copies.append((self._next, arrived))
        self._next += 1

    def bad(self, wait: bool = False) -> int | None:
        """The first step whose loss is NaN or infinite among those that have arrived.

        Args:
            wait: for all that were put.
        """
        while self._copies:
            step, arrived = self._copies[0]
            if arrived and wait:
                arrived.synchronize()
            if arrived and not arrived.query():
                break
            if not torch.isfinite(self.losses[step]):
                return step
            self._copies.popleft()
        return None
