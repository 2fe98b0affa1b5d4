"""Optimizers, gradient scaler, learning-rate schedules as pure functions of the step, moving average."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from finegrain.config.phases import SGD, CosineSchedule, OneCycleSchedule, Phase, StepSchedule

Blocks = Sequence[tuple[int, list[nn.Parameter]]]
"""The parameters of each block with its layer group, as ``models.layer_groups.layer_groups`` returns them."""


def build_optimizer(
    blocks: Blocks, phase: Phase, lr: float, scales_gradients: bool = False
) -> torch.optim.Optimizer:
    """An optimizer of all trainable parameters; each of its groups has its peak under ``"peak_lr"``.

    Frozen parameters are left out, so that they get neither optimizer state nor weight decay.

    Args:
        lr: peak learning rate where the multiplier is 1.
        scales_gradients: whether a ``GradientScaler`` may skip steps.
    """
    config = phase.optimizer
    parameters_by: dict[tuple[float, float], list[nn.Parameter]] = {}
    for multiplier, (_, parameters) in zip(lr_multipliers(blocks, phase), blocks, strict=True):
        for parameter in parameters:
            if parameter.requires_grad:
                # weights of norm layers and all biases are vectors, everything else is not
                exempt = not config.decay_norm_and_bias and parameter.ndim == 1
                weight_decay = 0.0 if exempt else config.weight_decay
                parameters_by.setdefault((lr * multiplier, weight_decay), []).append(parameter)
    groups = [
        {"params": parameters, "lr": peak, "peak_lr": peak, "weight_decay": weight_decay}
        for (peak, weight_decay), parameters in parameters_by.items()
    ]
    if isinstance(config, SGD):
        # the fused one's momentum would not be left as it was by a step that is skipped (torch 2.11 to 2.15)
        fused = not scales_gradients
        return torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)


def lr_multipliers(blocks: Blocks, phase: Phase) -> list[float]:
    """The multiplier of each block's learning rate: by layer group, or geometric from the head back."""
    if phase.layer_decay is None:
        return [phase.layer_lr_multipliers[group] for group, _ in blocks]
    return [phase.layer_decay**distance for distance in reversed(range(len(blocks)))]


def lr_scale(phase: Phase, step: int, steps_per_epoch: int) -> float:
    """The factor on every peak learning rate at a step, 0 <= step < epochs * steps_per_epoch."""
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


class GradientScaler(torch.amp.GradScaler):
    """Scales the loss, so that small gradients are not 0 in float16; skips a step whose gradients overflow.

    After such a step the scale is halved, and after 2,000 without one it is doubled (Micikevicius et al.
    2018, https://arxiv.org/abs/1710.03740). This is torch's, which counts the skipped steps too.
    """

    INITIAL_SCALE = 2.0**16

    def __init__(self, device: torch.device, enabled: bool) -> None:
        """Begin with the initial scale; where it is not enabled, every step is taken as it is."""
        super().__init__(device.type, self.INITIAL_SCALE, enabled=enabled)
        on = device if enabled else None
        self._one, self._skipped = torch.ones((), device=on), torch.zeros((), dtype=torch.int64, device=on)
        self.scale(self._one)  # makes the scale's memory now, and not while a CUDA graph is recorded

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Set the scale of the next step, and count this one if it was skipped; the host does not wait."""
        before = self.scale(self._one)
        super().update(new_scale)
        if self.is_enabled() and new_scale is None:
            self._skipped += self.scale(self._one) < before

    def skipped_steps(self) -> int:
        """Number of steps that were skipped; waits for the device."""
        return int(self._skipped.item())

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; empty where it is not enabled."""
        return super().state_dict() | ({"skipped": self.skipped_steps()} if self.is_enabled() else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        self._skipped.fill_(state_dict.get("skipped", 0))


class MovingAverage(AveragedModel):
    """An exponential moving average (EMA) of a network's weights.

    The decay grows with the number n of updates as (1 + n) / (10 + n) up to ``decay``, as in TensorFlow's
    ExponentialMovingAverage, so that the first weights are soon forgotten. Norm statistics are averaged too;
    counters are copied.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__(net, use_buffers=True)
        self._decay = decay
        self.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average; torch's own method waits for the GPU to count, this one never does."""
        n = int(self.n_averaged)  # stays on the CPU
        weight = 1 - min(self._decay, (1 + n) / (10 + n)) if n else 1.0
        averaged, current = (
            itertools.chain(each.parameters(), each.buffers()) for each in (self.module, model)
        )
        pairs = list(zip(averaged, current, strict=True))
        moved = [pair for pair in pairs if weight < 1 and pair[0].is_floating_point()]
        copied = [pair for pair in pairs if weight == 1 or not pair[0].is_floating_point()]
        if moved:
            torch._foreach_lerp_([each for each, _ in moved], [each for _, each in moved], weight)
        if copied:
            torch._foreach_copy_([each for each, _ in copied], [each for _, each in copied])
        self.n_averaged += 1
