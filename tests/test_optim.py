"""Schedules equal torch's own, and what is frozen is in no optimizer."""

import pytest
import torch
from torch import nn

from finegrain.config import base, phases
from finegrain.training import optim

SGD = phases.SGD(kind="sgd")
ADAMW = phases.AdamW(kind="adamw", betas=(0.9, 0.99))


def phase(schedule: base.Section, optimizer: base.Section = SGD, **more: object) -> phases.Phase:
    base = {"trainable": "all", "epochs": 6, "image_size": 32, "optimizer": optimizer, "schedule": schedule}
    return phases.Phase.model_validate({**base, **more})


def rates(wanted: phases.Phase, steps_per_epoch: int) -> list[float]:
    return [optim.lr_scale(wanted, step, steps_per_epoch) for step in range(wanted.epochs * steps_per_epoch)]


def test_constant_is_one():
    assert set(rates(phase(phases.ConstantSchedule(kind="constant")), 5)) == {1.0}


def test_step_equals_torch_s_step_lr():
    ours = rates(phase(phases.StepSchedule(kind="step", every_epochs=2, factor=0.1)), 3)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    theirs = []
    for _ in range(6):
        theirs += [scheduler.get_last_lr()[0]] * 3
        optimizer.step()
        scheduler.step()
    assert ours == pytest.approx(theirs)


def test_cosine_warms_up_in_even_steps_then_equals_torch_s_cosine():
    ours = rates(phase(phases.CosineSchedule(kind="cosine", warmup_epochs=1.0)), 4)
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
    wanted = phase(phases.OneCycleSchedule(kind="one_cycle", momentum_range=(0.85, 0.95)), kind)
    weight = nn.Parameter(torch.zeros(1))
    ours = optim.build_optimizer([(2, [weight])], wanted, lr=0.01)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01, momentum=0.9)
    if kind is ADAMW:
        other = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.01)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        other, 0.01, total_steps=42, pct_start=0.3, base_momentum=0.85, max_momentum=0.95
    )
    for step in range(42):
        optim.set_lr(ours, wanted, step, steps_per_epoch=7)
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
    wanted = phase(phases.OneCycleSchedule(kind="one_cycle"), epochs=1)
    assert optim.lr_scale(wanted, 0, 1) == 1.0


def blocks() -> list[tuple[int, list[nn.Parameter]]]:
    """Stem, two body blocks and a head, each with a matrix and a vector."""
    return [(group, [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]) for group in (0, 0, 1, 2)]


def test_groups_get_their_factor_and_frozen_parameters_are_left_out():
    rows = blocks()
    for _, parameters in rows[:2]:
        for parameter in parameters:
            parameter.requires_grad_(False)
    wanted = phase(phases.ConstantSchedule(kind="constant"), layer_lr_multipliers=[0.1, 0.5, 1.0])
    groups = optim.build_optimizer(rows, wanted, lr=0.2).param_groups
    assert [group["peak_lr"] for group in groups] == pytest.approx([0.1, 0.2])
    assert [group["params"] for group in groups] == [rows[2][1], rows[3][1]]


def test_geometric_decay_counts_blocks_from_the_head():
    wanted = phase(phases.ConstantSchedule(kind="constant"), layer_decay=0.5)
    rates = [group["peak_lr"] for group in optim.build_optimizer(blocks(), wanted, lr=0.8).param_groups]
    assert rates == pytest.approx([0.1, 0.2, 0.4, 0.8])
    with pytest.raises(ValueError, match="layer_lr_multipliers or layer_decay, not both"):
        phase(phases.ConstantSchedule(kind="constant"), layer_decay=0.5, layer_lr_multipliers=[0.1, 0.5, 1.0])


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("spared", [True, False])
def test_weight_decay_can_spare_norm_and_bias(kind, spared):
    chosen = {"kind": kind, "weight_decay": 0.5, "decay_norm_and_bias": not spared}
    rows = blocks()
    optimizer = optim.build_optimizer(rows, phase(phases.ConstantSchedule(kind="constant"), chosen), lr=0.1)
    for _, parameters in rows:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # without a gradient, only weight decay moves anything
    for _, (matrix, vector) in rows:
        assert (matrix < 1).all()
        assert torch.equal(vector, torch.ones(2)) == spared


def test_the_average_equals_a_slow_one_and_starts_at_the_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = optim.MovingAverage(net, 0.9)
    slow = {k: v.clone() for k, v in net.state_dict().items()}
    for n in range(30):
        with torch.no_grad():
            for value in net.state_dict().values():
                value.add_(1)
        average.update_parameters(net)
        for k, v in net.state_dict().items():
            decay = min(0.9, (1 + n) / (10 + n)) if n else 0.0
            slow[k] = decay * slow[k] + (1 - decay) * v if v.is_floating_point() else v.clone()
    for k, v in average.module.state_dict().items():
        assert torch.allclose(v, slow[k]), k
    assert int(average.module[1].num_batches_tracked) == 30


def test_warmup_must_be_shorter_than_the_phase():
    with pytest.raises(ValueError, match="warmup_epochs must be less than epochs"):
        phase(phases.CosineSchedule(kind="cosine", warmup_epochs=6.0))
