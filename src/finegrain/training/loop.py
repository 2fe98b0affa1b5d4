"""The training loop: every phase of the recipe, epoch by epoch, with validation and checkpoints."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finegrain.augmentation import sampling
from finegrain.config.phases import SolvedPhase
from finegrain.core import log
from finegrain.core.errors import UserError
from finegrain.loading.batches import PackedSplit
from finegrain.models import inference, layer_groups, outputs
from finegrain.ridge.solve_head import solve_head
from finegrain.training import optim
from finegrain.training.checkpoint import CheckpointStore
from finegrain.training.choose_lr import choose_lr
from finegrain.training.history import EpochRow, EpochTotals, NonFiniteLossDetector, TrainingHistory
from finegrain.training.phase_networks import PhaseNetworks
from finegrain.training.train_step import PhaseContext, TrainingSetup, count_skipped_steps, train_step

SYNC_EVERY_STEPS = 16
"""Several processes decide together after so many steps whether to save: all of them wait for the answer."""


def fit(
    setup: TrainingSetup,
    val: PackedSplit | None,
    checkpoints: CheckpointStore,
    history: TrainingHistory,
    plan: TrainingHistory | None = None,
) -> Iterator[EpochRow]:
    """Train ``setup.net`` in place through every phase of the recipe; yield one row of history per epoch.

    A resumed run yields the rows of its checkpoint first, so that the caller always sees them all.

    Args:
        val: chooses the epoch whose weights are kept; None means to keep the last epoch.
        history: is filled in, with the weights to keep among others.
        plan: an earlier run, whose learning rates and numbers of epochs this one repeats.

    Raises:
        UserError: a loss is not finite.
    """
    networks, saved = PhaseNetworks(setup), checkpoints.read()
    if saved:
        _restore(saved, networks, history)
    yield from list(history.rows)
    for name, phase in setup.config.phases.items():
        done = history.epochs(name)
        epochs = plan.epochs(name) if plan else phase.epochs
        if done == epochs or name in history.stopped:
            continue
        context = PhaseContext(networks.enter(phase), name, networks.average)
        if isinstance(phase, SolvedPhase):
            yield solve_phase(context, phase, val, history, plan)
            networks.restart_average()
            _Saver(checkpoints, networks, context, None, history).save()
            continue
        layer_groups.set_trainable(context.setup.net, phase.trainable)
        if name not in history.lrs:
            history.lrs[name] = plan.lrs[name] if plan else choose_lr(context, history)
        optimizer = context.build_optimizer(history.lrs[name])
        if saved and (done or history.partial_epoch):
            optimizer.load_state_dict(saved["optimizer"])
            context.scaler.load_state_dict(saved["scaler"])
        saver = _Saver(checkpoints, networks, context, optimizer, history)
        for phase_epoch in range(done, epochs):
            yield _run_epoch(context, optimizer, phase_epoch, val, history, saver)
            if checkpoints.due():
                saver.save()
            if name in history.stopped:
                break
    # a kill after this, in a refit or before DVC has recorded the outs, repeats nothing
    checkpoints.write({"net": None, "history": history.state()})


def solve_phase(
    context: PhaseContext,
    phase: SolvedPhase,
    val: PackedSplit | None,
    history: TrainingHistory,
    plan: TrainingHistory | None = None,
) -> EpochRow:
    """Solve for the head, and add the pass over the images to the history as an epoch.

    Its training loss and accuracy are leave-one-out: no image was predicted by a solution that has seen it.
    """
    setup, name, started = context.setup, context.name, time.monotonic()
    phase = phase.model_copy(update={"class_weights": phase.class_weights or setup.config.class_weights})
    strength = plan.solved[name]["strength"] if plan else None
    phases = setup.config.phases
    trained = any(phases[row["phase"]].head is None for row in history.rows)
    try:
        solved = solve_head(setup.net, phase, setup.train, val, setup.dtype, setup.code, strength, trained)
    except np.linalg.LinAlgError as error:
        raise UserError(
            f"params.yaml: phases.{name}.strength: {phase.strength}: no exact solution ({error}); "
            "raise it, or check that the weights before this phase are finite"
        ) from None
    solved.copy_into(setup.net)
    labels, logits = setup.train.labels, solved.leave_one_out.logits
    row: EpochRow = {
        "epoch": len(history.rows) + 1,
        "phase": name,
        "image_size": phase.image_size,
        "lr": 0.0,
        "train_loss": solved.leave_one_out.loss,
        "train_top1": (logits.argmax(1) == labels).double().mean().item(),
        "train_images": len(labels),
        "train_seconds": time.monotonic() - started,
    }
    if val and solved.val_logits is not None:
        row |= _validation_scores(solved.val_logits, val, row)
    row["seconds"] = time.monotonic() - started
    history.add(row, setup.net, solved.val_logits)
    history.add_solved(name, solved, labels)
    return row


@dataclass(frozen=True)
class _Saver:
    """Writes checkpoints of one phase."""

    checkpoints: CheckpointStore
    networks: PhaseNetworks
    context: PhaseContext
    optimizer: torch.optim.Optimizer | None
    """None after a phase that is solved."""
    history: TrainingHistory

    def save(self) -> None:
        net, average, waiting = self.context.setup.net, self.context.average, self.networks.waiting
        for module in filter(None, (net, average, waiting)):
            self.context.setup.train.world.average_buffers(module)
        self.checkpoints.write(
            {
                "phase": self.context.name,
                "net": net.state_dict(),
                "waiting": waiting.state_dict() if waiting else None,
                "optimizer": self.optimizer.state_dict() if self.optimizer else None,
                "scaler": self.context.scaler.state_dict(),
                "average": average.state_dict() if average else None,
                "history": self.history.state(),
            }
        )

    def save_within_epoch(self, totals: EpochTotals, detector: NonFiniteLossDetector, started: float) -> None:
        """Save if it is time to, unless the last step has left weights that are not finite."""
        world = self.context.setup.train.world
        if not (world.is_single or totals.steps % SYNC_EVERY_STEPS == 0) or not self.checkpoints.due():
            return
        healthy = detector.first_bad(wait=True) is None and _is_finite(self.context.setup.net)
        if world.all_true(healthy):
            seconds = time.monotonic() - started
            self.history.partial_epoch = replace(totals.reduced(world), seconds=seconds)
            self.save()


def _run_epoch(
    context: PhaseContext,
    optimizer: torch.optim.Optimizer,
    phase_epoch: int,
    val: PackedSplit | None,
    history: TrainingHistory,
    saver: _Saver,
) -> EpochRow:
    """Train and validate one epoch of a phase, and add its row to the history.

    Args:
        phase_epoch: counts from 0 in the phase.
    """
    setup, phase, name = context.setup, context.phase, context.name
    world, lr, epoch = setup.train.world, history.lrs[name], len(history.rows) + 1
    partial = history.partial_epoch
    totals = partial.shard(world) if partial else EpochTotals.zero(setup.train.device)
    started = time.monotonic() - totals.seconds
    for detector in train_steps(context, optimizer, epoch, phase_epoch, totals):
        saver.save_within_epoch(totals, detector, started)
    totals, steps = totals.reduced(world), context.steps_per_epoch
    row: EpochRow = {
        "epoch": epoch,
        "phase": name,
        "image_size": phase.image_size_at(phase_epoch),
        "lr": lr * optim.lr_scale(phase, (phase_epoch + 1) * steps - 1, steps),
        "train_loss": totals.loss.item() / totals.images,
        "train_top1": totals.correct.item() / totals.images,
        "train_images": totals.images,
        "train_seconds": time.monotonic() - started,
        "skipped_steps": count_skipped_steps(context, history.skipped_steps(name)),
    }
    evaluated = context.average.module if context.average else setup.net
    world.average_buffers(evaluated)
    logits = None
    if val:
        logits, _ = inference.predict_split(evaluated, val, row["image_size"], setup.dtype)
        row |= _validation_scores(logits, val, row)
    elif not _is_finite(evaluated):  # a broken last step shows in no loss
        raise UserError(
            f"the weights are not finite after phase {name}, epoch {epoch}, lr {row['lr']:.3g}; "
            "lower lr in params.yaml"
        )
    row["seconds"] = time.monotonic() - started
    history.add(row, evaluated, logits, is_candidate=phase.head is None)
    if val and phase.patience_epochs and history.epochs_since_best(name) >= phase.patience_epochs:
        history.stopped.append(name)
    return row


def train_steps(
    context: PhaseContext,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    phase_epoch: int,
    totals: EpochTotals,
) -> Iterator[NonFiniteLossDetector]:
    """Take the steps of one epoch that are still to do; yield after each of them.

    Args:
        epoch: counts from 1 over all phases.
        phase_epoch: counts from 0 in the phase.
        totals: of the steps done, which are skipped; every further step is added.

    Raises:
        UserError: a loss is not finite.
    """
    setup, phase, steps, first = context.setup, context.phase, context.steps_per_epoch, totals.steps
    context.set_train_mode()
    detector = NonFiniteLossDetector(steps, setup.train.device, first)
    batches = context.batches(epoch, phase.image_size_at(phase_epoch), first)
    label = f"epoch {epoch} ({context.name})"
    bar = log.progress_bar(batches, total=steps - first, label=label, unit="step")
    for step, (images, labels) in enumerate(bar, first):
        optim.set_lr(optimizer, phase, phase_epoch * steps + step, steps)
        # dropout, MixUp and CutMix draw from the global generator
        torch.manual_seed(sampling.derive_seed(setup.seed, "step", epoch, step, *setup.train.world.rng_key))
        loss, logits = train_step(context, optimizer, images, labels)
        totals.add(loss, logits, labels)
        detector.add(loss)
        if detector.first_bad() is not None:
            break
        yield detector
    if (bad := detector.first_bad(wait=True)) is not None:
        peak = max(group["peak_lr"] for group in optimizer.param_groups)
        lr = peak * optim.lr_scale(phase, phase_epoch * steps + bad, steps)
        or_fp32 = ", or set precision: fp32," if setup.dtype == torch.float16 else ""
        raise UserError(
            f"train loss is {detector.losses[bad].item()} in phase {context.name}, epoch {epoch}, "
            f"step {bad + 1} of {steps}, lr {lr:.3g}; lower lr{or_fp32} in params.yaml"
        )


def _validation_scores(logits: Tensor, val: PackedSplit, row: EpochRow) -> EpochRow:
    """Every metric of the validation split that ``choose_by`` may name.

    Raises:
        UserError: the loss is not finite.
    """
    loss = F.cross_entropy(logits, val.labels).item()
    if not math.isfinite(loss):
        raise UserError(
            f"validation loss is {loss} in phase {row['phase']}, epoch {row['epoch']}, lr {row['lr']:.3g}; "
            "lower lr in params.yaml"
        )
    labels, predicted = val.labels.numpy(), logits.argmax(1).numpy()
    by_class = outputs.class_averages(labels, predicted, logits.shape[1])
    return {
        "val_loss": loss,
        "val_top1": float((labels == predicted).mean()),
        **{f"val_{metric}": value for metric, value in by_class.items()},
    }


def _is_finite(net: nn.Module) -> bool:
    """Whether all weights are finite; waits for the device."""
    return all(bool(p.isfinite().all()) for p in net.parameters())


def _restore(saved: dict[str, Any], networks: PhaseNetworks, history: TrainingHistory) -> None:
    """Continue from a checkpoint."""
    history.restore(saved["history"])
    if saved["net"] is None:
        log.info(f"all {len(history.rows)} epochs were trained before the interruption")
        return
    setup = networks.enter(networks.setup.config.phases[saved["phase"]])
    setup.net.load_state_dict(saved["net"])
    if networks.waiting:
        networks.waiting.load_state_dict(saved["waiting"])
    if networks.average:
        networks.average.load_state_dict(saved["average"])
    within = f", step {history.partial_epoch.steps} of the next" if history.partial_epoch else ""
    log.info(f"resumed after epoch {len(history.rows)}{within}{'; so far:' if history.rows else ''}")
