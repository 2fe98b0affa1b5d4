"""Optimizers, learning rates as pure functions of the step, and the average of the weights."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from finegrain.config.training import SGD, CosineSchedule, OneCycleSchedule, Phase, StepSchedule


def build_optimizer(
    blocks: Sequence[tuple[int, list[nn.Parameter]]], phase: Phase, lr: float
) -> torch.optim.Optimizer:
    """An optimizer over what trains: each group holds its peak rate under ``"peak_lr"``.

    Args:
        blocks: as ``model.blocks`` gives them; frozen parameters are passed over, so that they get neither
            state nor weight decay.
        lr: the head's peak rate when its factor is 1.
    """
    chosen = phase.optimizer
    spared = not chosen.decay_norm_and_bias
    rows: dict[tuple[float, float], list[nn.Parameter]] = {}
    for factor, (_, parameters) in zip(lr_multipliers(blocks, phase), blocks, strict=True):
        for parameter in parameters:
            if parameter.requires_grad:
                # norm layers' weights and all biases are vectors, everything else is not
                decay = 0.0 if spared and parameter.ndim == 1 else chosen.weight_decay
                rows.setdefault((lr * factor, decay), []).append(parameter)
    groups = [
        {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in rows.items()
    ]
    if isinstance(chosen, SGD):
        return torch.optim.SGD(groups, momentum=chosen.momentum, nesterov=chosen.nesterov, fused=True)
    return torch.optim.AdamW(groups, betas=chosen.betas, eps=chosen.eps, fused=True)


def lr_multipliers(blocks: Sequence[tuple[int, list[nn.Parameter]]], phase: Phase) -> list[float]:
    """The factor on the learning rate of each block: by layer group, or geometric from the head back."""
    if phase.layer_decay is None:
        return [phase.layer_lr_multipliers[group] for group, _ in blocks]
    return [phase.layer_decay**distance for distance in reversed(range(len(blocks)))]


def lr_scale(phase: Phase, step: int, steps_per_epoch: int) -> float:
    """The factor on every peak rate at a step of the phase, 0 <= step < epochs * steps_per_epoch."""
    schedule = phase.schedule
    total = phase.epochs * steps_per_epoch
    if isinstance(schedule, StepSchedule):
        return schedule.factor ** (step // steps_per_epoch // schedule.every_epochs)
    if isinstance(schedule, CosineSchedule):
        warmup = round(schedule.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    if isinstance(schedule, OneCycleSchedule):
        first, last = 1 / schedule.div_factor, 1 / (schedule.div_factor * schedule.final_div_factor)
        return _one_cycle(schedule, step, total, first, 1.0, last)
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, phase: Phase, step: int, steps_per_epoch: int) -> None:
    """Set each group's learning rate for a step and, under one_cycle, its momentum (AdamW: beta 1)."""
    scale = lr_scale(phase, step, steps_per_epoch)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * scale
        if isinstance(phase.schedule, OneCycleSchedule):
            low, high = phase.schedule.momentum_range
            momentum = _one_cycle(phase.schedule, step, phase.epochs * steps_per_epoch, high, low, high)
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum


def _one_cycle(
    schedule: OneCycleSchedule, step: int, total: int, first: float, middle: float, last: float
) -> float:
    """Cosine from ``first`` to ``middle`` and on to ``last`` (https://arxiv.org/abs/1708.07120).

    The corners are those of torch's OneCycleLR: the middle at ``pct_start * total - 1``, the last at
    ``total - 1``.
    """
    peak = max(schedule.pct_start * total - 1, 0)  # a run of very few steps starts at the middle
    if step < peak:
        start, end, done = first, middle, step / peak
    else:
        start, end, done = middle, last, (step - peak) / max(total - 1 - peak, 1)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


class MovingAverage(AveragedModel):
    """A copy of a network that ``update_parameters`` moves towards it: an exponential moving average.

    The decay grows with the updates n as (1 + n) / (10 + n) up to ``decay``, as TensorFlow's
    ExponentialMovingAverage does it, so that the first, bad weights are soon forgotten. Norm statistics are
    averaged too; counters are copied.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__(net, use_buffers=True)
        self._decay = decay
        self.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """One update; unlike torch's own it never waits for a GPU, which that one does to count."""
        n = int(self.n_averaged)  # stays on the CPU
        weight = 1 - min(self._decay, (1 + n) / (10 + n)) if n else 1.0
        mine, theirs = (itertools.chain(each.parameters(), each.buffers()) for each in (self.module, model))
        pairs = list(zip(mine, theirs, strict=True))
        moved = [pair for pair in pairs if weight < 1 and pair[0].is_floating_point()]
        copied = [pair for pair in pairs if weight == 1 or not pair[0].is_floating_point()]
        if moved:
            torch._foreach_lerp_([each for each, _ in moved], [each for _, each in moved], weight)
        if copied:
            torch._foreach_copy_([each for each, _ in copied], [each for _, each in copied])
        self.n_averaged += 1
