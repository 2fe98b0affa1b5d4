"""Optimizers, and learning rates as pure functions of the step."""

import math

import torch
from torch import nn

from finegrain import params


def build(groups: list[list[nn.Parameter]], phase: params.Phase, lr: float) -> torch.optim.Optimizer:
    """An optimizer over what trains: each group holds its peak rate under ``"peak_lr"``.

    Args:
        groups: parameters of the early layers, the late layers and the head; frozen ones are passed over, so
            that they get neither state nor weight decay.
        lr: the head's peak rate when its factor is 1.
    """
    rows = []
    for group, factor in zip(groups, phase.lr_factors, strict=True):
        trained = [p for p in group if p.requires_grad]
        if trained:
            rows.append({"params": trained, "lr": lr * factor, "peak_lr": lr * factor})
    chosen = phase.optimizer
    if isinstance(chosen, params.Sgd):
        return torch.optim.SGD(
            rows,
            momentum=chosen.momentum,
            nesterov=chosen.nesterov,
            weight_decay=chosen.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(rows, betas=chosen.betas, weight_decay=chosen.weight_decay, fused=True)


def lr_scale(phase: params.Phase, step: int, steps_per_epoch: int) -> float:
    """The factor on every peak rate at a step of the phase, 0 <= step < epochs * steps_per_epoch."""
    schedule = phase.schedule
    total = phase.epochs * steps_per_epoch
    if isinstance(schedule, params.Step):
        return schedule.factor ** (step // steps_per_epoch // schedule.every_epochs)
    if isinstance(schedule, params.Cosine):
        warmup = round(schedule.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    if isinstance(schedule, params.OneCycle):
        return _one_cycle(schedule, step, total, 1 / 25, 1.0, 1 / 25e4)
    return 1.0


def set_rates(optimizer: torch.optim.Optimizer, phase: params.Phase, step: int, steps_per_epoch: int) -> None:
    """Set each group's learning rate for a step and, under one_cycle, its momentum (AdamW: beta 1)."""
    scale = lr_scale(phase, step, steps_per_epoch)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * scale
        if isinstance(phase.schedule, params.OneCycle):
            low, high = phase.schedule.momentum_range
            momentum = _one_cycle(phase.schedule, step, phase.epochs * steps_per_epoch, high, low, high)
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum


def _one_cycle(
    schedule: params.OneCycle, step: int, total: int, first: float, middle: float, last: float
) -> float:
    """Cosine from ``first`` to ``middle`` and on to ``last`` (https://arxiv.org/abs/1708.07120).

    The corners are those of torch's OneCycleLR: the middle at ``up_ratio * total - 1``, the last at
    ``total - 1``.
    """
    peak = max(schedule.up_ratio * total - 1, 0)  # a run of very few steps starts at the middle
    if step < peak:
        start, end, done = first, middle, step / peak
    else:
        start, end, done = middle, last, (step - peak) / max(total - 1 - peak, 1)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))
