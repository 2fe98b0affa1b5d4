"""Schedules equal torch's own, and what is frozen is in no optimizer."""

import pytest
import torch
from torch import nn

from finegrain import optim, params

SGD = params.Sgd(kind="sgd")
ADAMW = params.AdamW(kind="adamw", betas=(0.9, 0.99))


def phase(schedule: params.Section, optimizer: params.Section = SGD, **more: object) -> params.Phase:
    base = {"part": "all", "epochs": 6, "side_pixels": 32, "optimizer": optimizer, "schedule": schedule}
    return params.Phase.model_validate({**base, **more})


def rates(wanted: params.Phase, steps_per_epoch: int) -> list[float]:
    return [optim.lr_scale(wanted, step, steps_per_epoch) for step in range(wanted.epochs * steps_per_epoch)]


def test_constant_is_one():
    assert set(rates(phase(params.Constant(kind="constant")), 5)) == {1.0}


def test_step_equals_torch_s_step_lr():
    ours = rates(phase(params.Step(kind="step", every_epochs=2, factor=0.1)), 3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    theirs = []
    for _ in range(6):
        theirs += [scheduler.get_last_lr()[0]] * 3
        optimizer.step()
        scheduler.step()
    assert ours == pytest.approx(theirs)


def test_cosine_warms_up_in_even_steps_then_equals_torch_s_cosine():
    ours = rates(phase(params.Cosine(kind="cosine", warmup_epochs=1.0)), 4)
    assert ours[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    theirs = []
    for _ in range(20):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert ours[4:] == pytest.approx(theirs)
    assert 0 < ours[-1] < 0.01


@pytest.mark.parametrize("kind", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_one_cycle_equals_torch_s_in_rate_and_momentum(kind):
    wanted = phase(params.OneCycle(kind="one_cycle", momentum_range=(0.85, 0.95)), kind)
    weight = nn.Parameter(torch.zeros(1))
    ours = optim.build([[weight], [], []], wanted, lr=0.01)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01, momentum=0.9)
    if kind is ADAMW:
        other = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.01)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        other, 0.01, total_steps=42, pct_start=0.3, base_momentum=0.85, max_momentum=0.95
    )
    for step in range(42):
        optim.set_rates(ours, wanted, step, steps_per_epoch=7)
        mine, reference = ours.param_groups[0], other.param_groups[0]
        assert mine["lr"] == pytest.approx(reference["lr"], rel=1e-6)
        momentum = "betas" if kind is ADAMW else "momentum"
        first = mine[momentum][0] if kind is ADAMW else mine[momentum]
        second = reference[momentum][0] if kind is ADAMW else reference[momentum]
        assert first == pytest.approx(second)
        other.step()
        if step < 41:
            theirs.step()


def test_one_cycle_of_a_single_step_starts_at_the_peak():
    wanted = phase(params.OneCycle(kind="one_cycle"), epochs=1)
    assert optim.lr_scale(wanted, 0, 1) == 1.0


def test_groups_get_their_factor_and_frozen_parameters_are_left_out():
    early, late, head = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    early.requires_grad_(False)
    wanted = phase(params.Constant(kind="constant"), lr_factors=[0.1, 0.5, 1.0])
    groups = optim.build([[early], [late], [head]], wanted, lr=0.2).param_groups
    assert [group["peak_lr"] for group in groups] == pytest.approx([0.1, 0.2])
    assert [group["params"] for group in groups] == [[late], [head]]


def test_warmup_must_be_shorter_than_the_phase():
    with pytest.raises(ValueError, match="warmup_epochs must be less than epochs"):
        phase(params.Cosine(kind="cosine", warmup_epochs=6.0))
