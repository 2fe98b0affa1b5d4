"""fit() and predict(): the only two loops over batches."""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finegrain.augmentation import sampling
from finegrain.config.params import Params
from finegrain.config.training import Phase
from finegrain.core import log
from finegrain.core.errors import UserError
from finegrain.loading.batches import PackedSplit
from finegrain.models import inference, layer_groups
from finegrain.runtime import devices
from finegrain.runtime.distributed import World
from finegrain.training import lr_finder, optim, train_step
from finegrain.training.checkpoint import CheckpointStore
from finegrain.training.history import EpochRow, EpochTotals, NonFiniteLossDetector, TrainingHistory
from finegrain.training.optim import MovingAverage

SYNC_EVERY_STEPS = 16
"""Steps, after which processes that train together ask whether to save: all wait for the answer."""


@dataclass(frozen=True)
class PhaseRun:
    """What every training step of a phase works on."""

    net: nn.Module
    config: Params
    seed: int
    name: str
    """Of the phase."""
    train: PackedSplit
    bf16: bool
    average: MovingAverage | None = None

    @property
    def phase(self) -> Phase:
        return self.config.phases[self.name]

    @property
    def batch_size(self) -> int:
        return self.phase.batch_size or self.config.batch_size

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self.train.steps(self.batch_size)

    @cached_property
    def mix(self) -> train_step.Mix | None:
        return train_step.mixup_or_cutmix(self.config.augment, len(self.train.class_names))

    @cached_property
    def passes(self) -> train_step.StepRunner:
        steps, phase = self.steps, self.phase  # not self: a cycle would keep a graph's memory

        def planned(side: int) -> int:
            return steps * sum(phase.side(epoch) == side for epoch in range(phase.epochs))

        world = self.train.world
        recorded = self.train.device.type == "cuda" and world.is_single
        net = world.wrap(self.net)
        return train_step.StepRunner(
            net, self.bf16, self.config.label_smoothing, planned if recorded else None, self.batch_size
        )

    def batches(self, epoch: int | str, side: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Of an epoch, from its step ``first`` on."""
        augment, size = self.config.augment, self.batch_size
        return self.train.train_batches(epoch, size, side, augment, self.seed, first)

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        return optim.build_optimizer(layer_groups.layer_groups(self.net), self.phase, lr)


def fit(
    net: nn.Module,
    config: Params,
    seed: int,
    train: PackedSplit,
    val: PackedSplit | None,
    keeper: CheckpointStore,
    progress: TrainingHistory,
    bf16: bool,
    plan: TrainingHistory | None = None,
) -> Iterator[EpochRow]:
    """Run every phase of the recipe on ``net`` in place; yield one row of history per epoch.

    A resumed run yields the rows of its checkpoint first, so that the caller always sees them all.

    Args:
        seed: of everything random; ``config.seed`` is the data's.
        val: chooses the epoch that is kept; None: the last one is.
        progress: filled with what the run learns, such as the weights to keep.
        bf16: autocast to bfloat16.
        plan: an earlier run, whose learning rates and numbers of epochs this one repeats.

    Raises:
        UserError: a loss is not finite.
    """
    average, world = MovingAverage(net, config.ema_decay) if config.ema_decay else None, train.world
    state = keeper.read()
    if state:
        _restore(state, net, average, progress)
    yield from list(progress.rows)
    for name, phase in config.phases.items():
        begun, epochs = progress.epochs(name), plan.epochs(name) if plan else phase.epochs
        if begun == epochs or name in progress.stopped:
            continue
        job = PhaseRun(net, config, seed, name, train, bf16, average)
        layer_groups.set_trainable(net, phase.trainable)
        if name not in progress.lrs:
            progress.lrs[name] = plan.lrs[name] if plan else _learning_rate(job, progress)
        optimizer = job.optimizer(progress.lrs[name])
        if state and (begun or progress.sums):
            optimizer.load_state_dict(state["optimizer"])
        for phase_epoch in range(begun, epochs):
            epoch, lr = len(progress.rows) + 1, progress.lrs[name]
            sums = progress.sums.part(world) if progress.sums else EpochTotals.zero(train.device)
            started = time.monotonic() - sums.seconds
            for watch in train_steps(job, optimizer, lr, epoch, phase_epoch, sums):
                asked = world.is_single or sums.steps % SYNC_EVERY_STEPS == 0
                if (
                    asked
                    and keeper.due()
                    and world.all_true(watch.bad(wait=True) is None and _is_finite(net))
                ):
                    progress.sums = replace(sums.of_all(world), seconds=time.monotonic() - started)
                    keeper.write(_checkpoint_state(net, optimizer, average, progress, world))
            row: EpochRow = {"epoch": epoch, "phase": name, "image_size": phase.side(phase_epoch)}
            row |= _summarize_epoch(job, lr, phase_epoch, sums.of_all(world))
            row["train_seconds"] = time.monotonic() - started
            kept = average.module if average else net
            world.average_buffers(kept)
            if val:
                row |= _validate(kept, val, job, row)
            row["seconds"] = time.monotonic() - started
            progress.add(row, kept)
            if val and phase.patience_epochs and progress.epochs_since_best(name) >= phase.patience_epochs:
                progress.stopped.append(name)
            yield row
            if keeper.due():
                keeper.write(_checkpoint_state(net, optimizer, average, progress, world))
            if name in progress.stopped:
                break
    # so that a kill after this, in a refit or before DVC has recorded the outs, repeats nothing
    keeper.write({"net": None, "progress": progress.state()})


def train_steps(
    job: PhaseRun,
    optimizer: torch.optim.Optimizer,
    lr: float,
    epoch: int,
    phase_epoch: int,
    sums: EpochTotals,
) -> Iterator[NonFiniteLossDetector]:
    """The steps of one pass over the training images that are still to do; yields after each one.

    Args:
        lr: peak rate of the phase.
        epoch: from 1, counted over all phases.
        phase_epoch: from 0, counted in the phase.
        sums: of the steps done, which are left out; each further step is added.

    Raises:
        UserError: a loss is not finite.
    """
    phase, steps, first = job.phase, job.steps, sums.steps
    layer_groups.set_train_mode(job.net, phase.trainable, phase.frozen_statistics)
    watch = NonFiniteLossDetector(steps, job.train.device, first)
    batches = job.batches(epoch, phase.side(phase_epoch), first)
    bar = log.progress_bar(batches, total=steps - first, label=f"epoch {epoch} ({job.name})", unit="step")
    for step, (x, y) in enumerate(bar, first):
        optim.set_lr(optimizer, phase, phase_epoch * steps + step, steps)
        # for mixing and dropout
        torch.manual_seed(sampling.derive_seed(job.seed, "step", epoch, step, *job.train.world.rng_key))
        loss, logits = take_step(job, optimizer, x, y)
        sums.add(loss, logits, y)
        watch.put(loss)
        if watch.bad() is not None:
            break
        yield watch
    if (bad := watch.bad(wait=True)) is not None:
        rate = lr * optim.lr_scale(phase, phase_epoch * steps + bad, steps)
        raise UserError(
            f"train loss is {watch.losses[bad].item()} in phase {job.name}, epoch {epoch}, "
            f"step {bad + 1} of {steps}, lr {rate:.3g}; lower lr in params.yaml"
        )


def _summarize_epoch(job: PhaseRun, lr: float, phase_epoch: int, sums: EpochTotals) -> EpochRow:
    return {
        "lr": lr * optim.lr_scale(job.phase, (phase_epoch + 1) * job.steps - 1, job.steps),
        "train_loss": sums.loss.item() / sums.images,
        "train_top1": sums.correct.item() / sums.images,
        "train_images": sums.images,
    }


def take_step(job: PhaseRun, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """One optimisation step on images ``[N, 3, side, side]`` and class ids ``[N]``.

    Returns:
        Loss, a scalar, and logits ``[N, classes]``, detached, on the device, valid until the next step.

    Raises:
        UserError: out of memory, or an operation that is not deterministic where that is asked for.
    """
    key = f"phases.{job.name}.batch_size" if job.phase.batch_size else "batch_size"
    with devices.explain_errors(f"{key}: {len(x)} images of {x.shape[-1]} px", "halve it"):
        if job.mix:
            x, y = job.mix(x, y)
        loss, logits = job.passes(x, y)
        if job.phase.clip_norm:
            nn.utils.clip_grad_norm_(job.net.parameters(), job.phase.clip_norm)
        optimizer.step()
        if job.average:
            job.average.update_parameters(job.net)
    return loss, logits


def _learning_rate(job: PhaseRun, progress: TrainingHistory) -> float:
    """The phase's peak rate; runs the LR range test where it is asked for."""
    wanted = job.phase.lr or job.config.lr
    if wanted != "auto" and not job.phase.lr_range_test:
        return wanted
    points = run_lr_range_test(job)
    progress.sweeps[job.name] = points
    if wanted != "auto":
        return wanted
    chosen = lr_finder.suggest(points, job.config.lr_range_test.suggestion)
    log.info(f"{job.name}: lr {chosen:.3g} from the LR range test")
    return chosen


def run_lr_range_test(job: PhaseRun) -> list[lr_finder.LRPoint]:
    """Sweep the rate over training batches with the phase's own optimizer; the network is as it was after."""
    before = {name: value.clone() for name, value in job.net.state_dict().items()}
    optimizer = job.optimizer(1.0)
    layer_groups.set_train_mode(job.net, job.phase.trainable, job.phase.frozen_statistics)
    job = replace(job, average=None)
    batches = itertools.chain.from_iterable(
        job.batches(f"range test {round_}", job.phase.side(0)) for round_ in itertools.count()
    )
    total = job.config.lr_range_test.steps
    bar = log.progress_bar(None, total=total, label=f"LR range test ({job.name})", unit="step")

    def step(lr: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["peak_lr"]  # the groups' factors, for a peak rate of 1
        torch.manual_seed(sampling.derive_seed(job.seed, "range test", bar.n, *job.train.world.rng_key))
        loss, _ = take_step(job, optimizer, *next(batches))
        job.train.world.all_reduce(loss)
        loss /= job.train.world.size
        bar.update()
        return loss.item()  # waits for the device: the sweep must know when to stop

    with bar:
        points = lr_finder.run_sweep(step, job.config.lr_range_test)
    job.net.load_state_dict(before)
    job.net.zero_grad(set_to_none=True)
    return points


def _validate(net: nn.Module, val: PackedSplit, job: PhaseRun, row: EpochRow) -> EpochRow:
    logits, labels = inference.predict_split(net, val, row["image_size"], job.bf16)
    loss = F.cross_entropy(logits, labels).item()
    if not math.isfinite(loss):
        raise UserError(
            f"validation loss is {loss} in phase {job.name}, epoch {row['epoch']}, lr {row['lr']:.3g}; "
            "lower lr in params.yaml"
        )
    return {"val_loss": loss, "val_top1": (logits.argmax(1) == labels).double().mean().item()}


def _is_finite(net: nn.Module) -> bool:
    """Whether the last step has left weights to go on from; waits for the device."""
    return all(bool(p.isfinite().all()) for p in net.parameters())


def _checkpoint_state(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    progress: TrainingHistory,
    world: World,
) -> dict[str, Any]:
    for each in (net, *([average] if average else [])):
        world.average_buffers(each)
    return {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state_dict() if average else None,
        "progress": progress.state(),
    }


def _restore(
    state: dict[str, Any], net: nn.Module, average: MovingAverage | None, progress: TrainingHistory
) -> None:
    progress.restore(state["progress"])
    if state["net"] is None:
        log.info(f"all {len(progress.rows)} epochs were trained before the run was broken off")
        return
    net.load_state_dict(state["net"])
    if average:
        average.load_state_dict(state["average"])
    within = f", step {progress.sums.steps} of the next" if progress.sums else ""
    log.info(f"resumed after epoch {len(progress.rows)}{within}")
