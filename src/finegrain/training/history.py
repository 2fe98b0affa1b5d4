"""What a run learns besides the weights in training: epochs, learning rates, the best weights."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from finegrain.ridge.solve_head import SolvedHead
from finegrain.runtime.distributed import World
from finegrain.training.lr_finder import LRPoint

EpochRow = dict[str, Any]
"""One epoch: number, phase, image size, learning rate, losses, accuracies, times."""


@dataclass
class EpochTotals:
    """Sums over the steps of an unfinished epoch; on the device, so that no step waits for it."""

    loss: Tensor
    """Sum of the loss over all images, a scalar."""
    correct: Tensor
    """Number of images whose class was predicted, a scalar."""
    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    """Time until the checkpoint that this epoch was resumed from."""

    @classmethod
    def zero(cls, device: torch.device) -> "EpochTotals":
        return cls(torch.zeros((), device=device), torch.zeros((), device=device, dtype=torch.int64))

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a step: its mean loss, logits ``[N, classes]`` and class ids ``[N]``."""
        self.loss += loss * len(labels)
        self.correct += (logits.argmax(1) == labels).sum()
        self.images += len(labels)
        self.steps += 1

    def reduced(self, world: World) -> "EpochTotals":
        """The sums over all processes, each of which has had equally many images."""
        total = self.to(self.loss.device)
        world.all_reduce(total.loss, total.correct)
        return replace(total, images=self.images * world.size)

    def shard(self, world: World) -> "EpochTotals":
        """This process's share, so that ``reduced`` gives these sums again."""
        share = self.to(world.device)
        if not world.is_main_process:
            share.loss.zero_()
            share.correct.zero_()
        return replace(share, images=self.images // world.size)

    def to(self, device: torch.device) -> "EpochTotals":
        """A copy on the device."""
        return replace(self, loss=self.loss.to(device, copy=True), correct=self.correct.to(device, copy=True))


@dataclass
class TrainingHistory:
    """Is filled while ``loop.fit`` yields; a checkpoint holds all of it."""

    choose_by: str = "top1"
    """The validation metric by which epochs are compared."""
    rows: list[EpochRow] = field(default_factory=list)
    lrs: dict[str, float] = field(default_factory=dict)
    """Peak learning rate of each phase that has begun."""
    lr_range_tests: dict[str, list[LRPoint]] = field(default_factory=dict)
    """The LR range test of each phase that had one."""
    solved: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Strength, losses of the strengths tried and learning curve of each phase that was solved."""
    leave_one_out: dict[str, Tensor] = field(default_factory=dict)
    """``label_probability``, ``top_class``, ``top_probability``, ``[N]`` each, of the training images, from
    the last phase that was solved; empty if none was."""
    stopped: list[str] = field(default_factory=list)
    """Phases that early stopping has ended."""
    best: EpochRow = field(default_factory=dict)
    """The row of the epoch whose weights are kept."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """Those weights, on the CPU."""
    val_logits: Tensor | None = None
    """``[N, classes]`` float32 of the validation images, by those weights."""
    partial_epoch: EpochTotals | None = None
    """The epoch in which a checkpoint was written before its end."""

    def epochs(self, phase: str) -> int:
        """Number of finished epochs of the phase."""
        return sum(row["phase"] == phase for row in self.rows)

    def skipped_steps(self, phase: str) -> int:
        """Number of steps of the phase that were skipped in its finished epochs; see ``train_step``."""
        return sum(row["skipped_steps"] for row in self.rows if row["phase"] == phase)

    def epochs_since_best(self, phase: str) -> int:
        """Number of epochs of the phase after its best one."""
        scores = [self._score(row) for row in self.rows if row["phase"] == phase]
        return len(scores) - 1 - scores.index(max(scores))

    def add(
        self, row: EpochRow, net: nn.Module, val_logits: Tensor | None = None, is_candidate: bool = True
    ) -> None:
        """Add an epoch; keep a copy of its weights if it is the best so far on validation.

        The best by ``choose_by`` is kept, of equals the one with the lowest loss. Without validation it is
        the last.

        Args:
            val_logits: of the validation images; None without validation.
            is_candidate: whether the network is the one to be saved, and no phase's own.
        """
        self.rows.append(row)
        self.partial_epoch = None
        if not is_candidate:
            return
        if not self.best or "val_loss" not in row or self._score(row) > self._score(self.best):
            self.best, self.val_logits = row, val_logits
            self.weights = {k: v.detach().to("cpu", copy=True) for k, v in net.state_dict().items()}

    def _score(self, row: EpochRow) -> tuple[float, float]:
        """Two epochs compare as these."""
        value = row[f"val_{self.choose_by}"]
        return -value if self.choose_by == "loss" else value, -row["val_loss"]

    def add_solved(self, phase: str, head: SolvedHead, labels: Tensor) -> None:
        """Add what a solved phase says about the training images, whose class ids are ``labels`` ``[N]``."""
        probabilities = head.leave_one_out.logits.softmax(1)
        top_probability, top_class = probabilities.max(1)
        self.leave_one_out = {
            "label_probability": probabilities.gather(1, labels[:, None])[:, 0],
            "top_class": top_class,
            "top_probability": top_probability,
        }
        self.solved[phase] = {
            "strength": head.leave_one_out.strength,
            "losses": [[strength, loss] for strength, loss in head.tried.items()],
            "learning_curve": head.curve,
        }

    def leave_one_out_top1(self) -> dict[str, Any] | None:
        """Number of training images and their leave-one-out top-1, from the last phase that was solved."""
        solved = [row for row in self.rows if row["phase"] in self.solved]
        return {"images": solved[-1]["train_images"], "top1": solved[-1]["train_top1"]} if solved else None

    def state(self) -> dict[str, Any]:
        """Plain values and tensors for a checkpoint."""
        tests = {k: [(p.lr, p.loss, p.smoothed_loss) for p in v] for k, v in self.lr_range_tests.items()}
        partial = vars(self.partial_epoch) if self.partial_epoch else None
        return {**vars(self), "lr_range_tests": tests, "partial_epoch": partial}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` returned, the best epoch too: a worse one must not replace its weights."""
        vars(self).update(state)
        self.lr_range_tests = {k: [LRPoint(*p) for p in v] for k, v in state["lr_range_tests"].items()}
        partial = state["partial_epoch"]
        self.partial_epoch = EpochTotals(**partial) if partial else None


class NonFiniteLossDetector:
    """Finds the first loss of an epoch that is NaN or infinite, without the host waiting for the device.

    On a GPU each loss is copied to pinned memory after the step that computed it, and checked once the copy
    has arrived: the run stops a few steps late at most.
    """

    def __init__(self, steps: int, device: torch.device, first: int = 0) -> None:
        """Prepare for an epoch of ``steps`` steps, of which the first ``first`` are done."""
        self._cuda = device.type == "cuda"
        self.losses = torch.zeros(steps, pin_memory=self._cuda)
        self._pending: deque[tuple[int, Any]] = deque()
        self._next = first

    def add(self, loss: Tensor) -> None:
        """Add the loss of the next step, a scalar on the device."""
        self.losses[self._next].copy_(loss, non_blocking=self._cuda)
        arrived = torch.cuda.Event() if self._cuda else None
        if arrived:
            arrived.record()
        self._pending.append((self._next, arrived))
        self._next += 1

    def first_bad(self, wait: bool = False) -> int | None:
        """The first step with a loss that is not finite, among those that have arrived.

        Args:
            wait: for all that were added.
        """
        while self._pending:
            step, arrived = self._pending[0]
            if arrived and wait:
                arrived.synchronize()
            if arrived and not arrived.query():
                break
            if not torch.isfinite(self.losses[step]):
                return step
            self._pending.popleft()
        return None
