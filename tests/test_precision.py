"""The precision that fits each device, and float16: scaled gradients, skipped steps."""

from types import SimpleNamespace
from typing import Any

import narrow_resnet
import pytest
import torch
from params_file import PHASE, write_params
from scripted_fit import Killed, deterministic, run, same_bits, split
from torch import nn

from finegrain.config import params
from finegrain.core.errors import UserError
from finegrain.models import build
from finegrain.runtime import devices
from finegrain.runtime.distributed import SINGLE_PROCESS
from finegrain.training import choose_lr
from finegrain.training.optim import GradientScaler, MovingAverage
from finegrain.training.train_step import PhaseContext, TrainingSetup, count_skipped_steps, train_step

CPU = torch.device("cpu")
TWO_EPOCHS = PHASE | {"epochs": 2}


@pytest.mark.parametrize(
    ("device", "native", "dtype", "message"),
    [
        ("cuda", True, torch.bfloat16, "precision: bf16 (Tesla T4 multiplies bfloat16 natively)"),
        ("cuda", False, torch.float16, "precision: fp16 (Tesla T4 multiplies float16 natively, but not"),
        ("cpu", True, torch.bfloat16, "precision: bf16 (this CPU multiplies bfloat16 natively)"),
        ("cpu", False, torch.float32, "precision: fp32 (this CPU does not multiply bfloat16 natively)"),
    ],
)
def test_auto_takes_what_the_device_is_made_for_and_says_why(
    monkeypatch, capsys, device, native, dtype, message
):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert devices.autocast_dtype("auto", torch.device(device)) == dtype
    assert capsys.readouterr().err.startswith(message)
    for precision, expected in devices.DTYPES.items():
        assert devices.autocast_dtype(precision, torch.device(device)) == expected
    assert not capsys.readouterr().err


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


def context(folder, net: nn.Module, average: MovingAverage | None = None, **phase: Any) -> PhaseContext:
    config = params.load_params(write_params(folder, phases={"all": PHASE | phase}, label_smoothing=0.0))
    train = SimpleNamespace(
        device=CPU, world=SINGLE_PROCESS, class_names=list("abcde"), steps_per_epoch=lambda batch_size: 3
    )
    setup = TrainingSetup(net, config, 0, train, torch.float16)  # type: ignore[arg-type]
    return PhaseContext(setup, "all", average)


def optimizer_of(step: PhaseContext) -> torch.optim.Optimizer:
    from finegrain.training import optim

    groups = [(2, list(step.setup.net.parameters()))]
    return optim.build_optimizer(groups, step.phase, 0.1, scales_gradients=True)


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 8, 8, generator=source), torch.randint(5, (4,), generator=source)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_step_that_overflows_is_skipped_as_if_it_had_not_been(tmp_path, kind):
    """Weights and optimizer stay; the scale is halved; the average and the norm statistics are updated."""
    optimizer = {"kind": "sgd", "momentum": 0.9} if kind == "sgd" else {"kind": "adamw"}
    net, plain = network(), network()
    average = MovingAverage(net, 0.9)
    step, reference = context(tmp_path, net, average, optimizer=optimizer), context(tmp_path, plain)
    skipping, taking = optimizer_of(step), optimizer_of(context(tmp_path, plain, optimizer=optimizer))
    before = [p.detach().clone() for p in net.parameters()]
    step.scaler.update(2.0**100)
    loss, _ = train_step(step, skipping, *batch(1))
    assert loss.isfinite()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert step.scaler.skipped_steps() == 1 and step.scaler.get_scale() == 2.0**99
    assert int(average.n_averaged) == 1 and int(net[1].num_batches_tracked) == 1

    step.scaler.update(2.0**10)
    reference.scaler.update(2.0**10)
    net[1].load_state_dict(plain[1].state_dict())
    skipped = step.scaler.skipped_steps()
    for seed in (2, 3):
        train_step(step, skipping, *batch(seed))
        train_step(reference, taking, *batch(seed))
    assert step.scaler.skipped_steps() == skipped and reference.scaler.skipped_steps() == 0
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), plain.parameters(), strict=True))
    assert not torch.equal(next(net.parameters()), before[0])


def test_clipping_is_of_the_gradients_without_their_scale(tmp_path):
    """Plain SGD moves the weights by lr times the gradient: its norm is at most lr * clip_norm."""
    net = network()
    step = context(tmp_path, net, clip_norm=0.01, optimizer={"kind": "sgd", "momentum": 0.0})
    before = [p.detach().clone() for p in net.parameters()]
    step.scaler.update(2.0**8)
    train_step(step, optimizer_of(step), *batch(1))
    moved = sum((p - q).square().sum() for p, q in zip(net.parameters(), before, strict=True)).sqrt()
    assert moved.item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_small_gradients_survive_by_their_scale(tmp_path):
    """1e-8 is 0 in float16, and 6e-4 where the loss is multiplied by 65,536."""

    class Faint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(192, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layer(images.flatten(1)).half() * 1e-7

    found = {}
    for scale in (1.0, 2.0**16):
        torch.manual_seed(0)
        net = Faint()
        step = context(tmp_path, net, optimizer={"kind": "sgd", "momentum": 0.0})
        step.scaler.update(scale)
        before = net.layer.weight.detach().clone()
        train_step(step, torch.optim.SGD(net.parameters(), lr=1e6), *batch(1))
        found[scale] = (net.layer.weight - before).abs().max().item()
    assert found[1.0] < 0.2 * found[2.0**16]


def test_gradients_that_overflow_at_any_scale_are_an_error(tmp_path):
    step = context(tmp_path, network())
    step.scaler.update(0.5)
    with pytest.raises(
        UserError, match="precision: fp16: gradients of phase all overflow at any scale; lower"
    ):
        count_skipped_steps(step, 0)


def test_the_scale_stays_where_a_recorded_graph_reads_it():
    scaler = GradientScaler(CPU, enabled=True)
    place = scaler._scale.data_ptr()
    scaler.update(8.0)
    scaler.load_state_dict({**scaler.state_dict(), "scale": 4.0})
    assert scaler._scale.data_ptr() == place and scaler.scale(torch.ones(())).item() == 4.0


def test_without_float16_a_scaler_does_nothing():
    scaler = GradientScaler(CPU, enabled=False)
    loss = torch.ones(())
    assert scaler.scale(loss) is loss and scaler.state_dict() == {} and scaler.skipped_steps() == 0


@pytest.fixture
def narrow(monkeypatch) -> None:
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")


def settings(folder, **more: Any) -> params.Params:
    second = TWO_EPOCHS | {"optimizer": {"kind": "adamw"}, "lr": 0.002, "clip_norm": 1.0}
    more = {"phases": {"first": TWO_EPOCHS, "second": second}, "batch_size": 6, "lr": 0.02} | more
    return params.load_params(write_params(folder, ema_decay=0.9, **more))


@pytest.mark.parametrize(("saves", "killed_at"), [((3,), 5), ((8, 11), 13), ((24, 26), 28)])
def test_a_killed_run_in_float16_resumes_to_the_same_bits(
    tiny_pack, tmp_path, monkeypatch, narrow, capsys, saves, killed_at
):
    """Seven steps an epoch, with a scale so large that the first steps of both phases are skipped."""
    monkeypatch.setattr(GradientScaler, "INITIAL_SCALE", 2.0**19)
    config = settings(tmp_path)
    _, unbroken = run(tiny_pack, config, dtype=torch.float16)
    skipped = [row["skipped_steps"] for row in unbroken.rows]
    assert skipped[0] > 0 and skipped[2] > 0 and all(count < 7 for count in skipped)
    assert f"first: {skipped[0]} of 7 steps were skipped" in capsys.readouterr().err
    with pytest.raises(Killed):
        run(tiny_pack, config, killed_at, saves=saves, dtype=torch.float16)
    _, again = run(tiny_pack, config, dtype=torch.float16)
    assert deterministic(unbroken) == deterministic(again)
    assert same_bits(unbroken.weights, again.weights)


def test_float16_learns_as_float32_does(tiny_pack, tmp_path, narrow, monkeypatch):
    monkeypatch.setattr(GradientScaler, "INITIAL_SCALE", 2.0**10)  # so that no step is skipped
    found = {}
    for dtype in (torch.float32, torch.float16):
        _, history = run(tiny_pack, settings(tmp_path), dtype=dtype)
        found[dtype] = [row["train_loss"] for row in history.rows]
    exact, rounded = found[torch.float32], found[torch.float16]
    assert exact != rounded and rounded[0] == pytest.approx(exact[0], abs=0.05) and rounded[-1] < rounded[0]


def test_the_range_test_leaves_the_scale_as_it_was(tiny_pack, tmp_path, narrow, monkeypatch):
    monkeypatch.setattr(GradientScaler, "INITIAL_SCALE", 2.0**26)
    config = settings(tmp_path)
    net = build.build_model("resnet18", 3, "none", config.head, 0)
    step = PhaseContext(TrainingSetup(net, config, 0, split(tiny_pack, "train"), torch.float16), "first")
    before = step.scaler.state_dict()
    assert len(choose_lr.run_lr_range_test(step)) > 10
    assert step.scaler.state_dict() == before


def test_a_head_is_solved_in_float32_on_features_of_float16(tiny_pack, tmp_path, narrow):
    phases = {"solve": {"solve": "ridge", "image_size": 32, "strength": 0.3}}
    head = {"pool": "covariance", "stage": ["layer1", "layer2"]}
    found = {}
    for dtype in (torch.float32, torch.float16):
        net, history = run(tiny_pack, settings(tmp_path, phases=phases, head=head), dtype=dtype)
        found[dtype] = net.fc.weight.detach(), history.rows[0]
        assert net.fc.weight.dtype == torch.float32
    exact, rounded = found[torch.float32], found[torch.float16]
    difference = (exact[0] - rounded[0]).norm() / exact[0].norm()
    assert 0 < difference < 0.05
    assert rounded[1]["train_loss"] == pytest.approx(exact[1]["train_loss"], abs=0.02)
