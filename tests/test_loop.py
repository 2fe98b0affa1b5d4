"""fit() learns, chooses by validation, stops on a bad loss, and a killed run resumes to the same bits."""

import copy
import io
import re

import narrow_resnet
import pytest
import torch
from params_file import PHASE, write_params
from scripted_fit import Killed, deterministic, run, same_bits, split

from finegrain.config import params
from finegrain.config.training import HeadParams
from finegrain.core import paths
from finegrain.core.errors import UserError
from finegrain.loading import batches
from finegrain.models import build, inference, layer_groups
from finegrain.runtime.distributed import World
from finegrain.training import checkpoint, choose_lr, loop, lr_finder
from finegrain.training.history import TrainingHistory
from finegrain.training.run import TrainingRun
from finegrain.training.train_step import PhaseContext, TrainingSetup

TWO_PHASES = {
    "warm": PHASE | {"trainable": "head+norm", "optimizer": {"kind": "adamw"}},
    "all": PHASE | {"epochs": 3, "schedule": {"kind": "one_cycle"}, "layer_lr_multipliers": [0.5, 1.0, 1.0]},
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch) -> None:
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")


def settings(tmp_path, **more) -> params.Params:
    return params.load_params(
        write_params(tmp_path, **{"phases": TWO_PHASES, "batch_size": 6, "lr": 0.02} | more)
    )


STEPS = 7
"""Steps in an epoch of tiny_pack, in batches of 6; fit() calls ``due`` after each and after the epoch."""
EPOCH_ENDS = tuple(range(STEPS + 1, 100, STEPS + 1))


def test_fit_learns_and_keeps_the_best_epoch_by_validation(tiny_pack, tmp_path):
    gentle = {"phases__all__epochs": 6, "phases__all__optimizer": {"kind": "adamw"}, "lr": 0.002}
    _, history = run(tiny_pack, settings(tmp_path, **gentle))
    assert [row["epoch"] for row in history.rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["phase"] for row in history.rows] == ["warm"] + ["all"] * 6
    assert history.best["val_top1"] == max(row["val_top1"] for row in history.rows) >= 0.8
    again = build.build_model("resnet18", 3, "none", HeadParams(), 9)
    again.load_state_dict(history.weights)
    logits, labels = inference.predict_split(again, split(tiny_pack, "val"), 32, dtype=torch.float32)
    assert (logits.argmax(1) == labels).double().mean().item() == history.best["val_top1"]


RICH = {
    "phases__all__trainable": "late",
    "ema_decay": 0.9,
    "augment__mixup_alpha": 0.2,
    "augment__rotate_degrees": 5.0,
    "augment__policy": "randaugment",
    "head": {"widths": [8], "dropouts": [0.2, 0.2], "batch_norm": True},
    "phases__warm__lr": "auto",
    "phases__all__image_size": [32, 64],
    "phases__all__clip_norm": 1.0,
    "phases__all__accumulate": 2,
    "phases__warm__accumulate": 3,
    "lr_range_test": {"start": 1e-5, "end": 10.0, "steps": 20, "suggestion": "valley"},
}


UNBROKEN: dict[str, TrainingHistory] = {}
"""Runs to compare with, by recipe."""


@pytest.mark.parametrize(
    ("recipe", "saves", "killed_at"),
    [
        pytest.param("plain", EPOCH_ENDS, 9, id="after an epoch"),
        pytest.param("plain", EPOCH_ENDS, 30, id="in an epoch"),
        pytest.param("plain", (3,), 5, id="saved in the first"),
        pytest.param("plain", (31,), 32, id="last step"),
        pytest.param("rich", (3,), 5, id="everything on, in the first"),
        pytest.param("rich", (11, 21), 25, id="everything on, within others"),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(tiny_pack, tmp_path, recipe, saves, killed_at):
    config = settings(tmp_path, **(RICH if recipe == "rich" else {}))
    if recipe not in UNBROKEN:
        UNBROKEN[recipe] = run(tiny_pack, config)[1]
    history = UNBROKEN[recipe]
    with pytest.raises(Killed):
        run(tiny_pack, config, killed_at, saves=saves)
    _, again = run(tiny_pack, config)
    assert deterministic(history) == deterministic(again)
    assert history.best["epoch"] == again.best["epoch"]
    assert (history.lrs, history.lr_range_tests) == (again.lrs, again.lr_range_tests)
    assert same_bits(history.weights, again.weights)


def test_a_resumed_run_repeats_only_what_came_after_the_checkpoint(tiny_pack, tmp_path, monkeypatch):
    config = settings(tmp_path)
    with pytest.raises(Killed):
        run(tiny_pack, config, killed_at=30, saves=(27,))  # the third step of the fourth epoch
    steps, trained = [], []
    real_step, real_batches = loop.train_step, batches.PackedSplit.train_batches

    def counted(self, epoch, *args):
        trained.append(epoch)
        return real_batches(self, epoch, *args)

    monkeypatch.setattr(batches.PackedSplit, "train_batches", counted)
    monkeypatch.setattr(loop, "train_step", lambda *args: steps.append(1) or real_step(*args))
    run(tiny_pack, config)
    assert trained == [4] and len(steps) == STEPS - 3


def test_what_a_step_draws_depends_on_the_seed_the_epoch_and_the_step(tiny_pack, tmp_path, monkeypatch):
    seeds = []
    real = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *args: seeds.append(torch.initial_seed()) or real(*args))
    phases = {"all": {**copy.deepcopy(TWO_PHASES["all"]), "epochs": 2}}
    for seed in (0, 1):
        run(tiny_pack, settings(tmp_path, phases=phases), seed=seed)
    assert len(seeds) == len(set(seeds)) == 2 * 2 * STEPS


def test_a_loss_that_is_not_finite_stops_at_that_step_and_keeps_the_last_checkpoint(
    tiny_pack, tmp_path, monkeypatch
):
    """The learning rate of the third phase is absurd: its first step spoils the weights for the second."""
    broken = {**TWO_PHASES["all"], "epochs": 1, "schedule": {"kind": "constant"}, "lr": 1e6}
    config = settings(tmp_path, phases={**TWO_PHASES, "broken": broken})
    steps = []
    real = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *args: steps.append(1) or real(*args))
    with pytest.raises(UserError) as caught:
        run(tiny_pack, config, saves=(EPOCH_ENDS[3], EPOCH_ENDS[3] + 1))
    message = str(caught.value)
    assert re.search(
        r"train loss is (nan|inf) in phase broken, epoch 5, step [23] of 7, lr 1e\+06; lower lr", message
    )
    assert len(steps) <= 4 * 7 + 3  # the epoch is not trained to its end
    (folder,) = paths.checkpoints_folder().iterdir()
    state = torch.load(io.BytesIO((folder / "checkpoint.pt").read_bytes()[32:]), weights_only=True)
    assert len(state["history"]["rows"]) == 4
    assert all(value.isfinite().all() for value in state["net"].values())


def test_weights_that_break_in_the_last_step_are_noticed_by_validation(tiny_pack, tmp_path):
    only = {**TWO_PHASES["all"], "epochs": 1, "schedule": {"kind": "constant"}, "lr": 1e6}
    config = settings(tmp_path, phases={"only": only}, batch_size=42)
    with pytest.raises(UserError, match=r"validation loss is (nan|inf) in phase only, epoch 1, lr 1e\+06"):
        run(tiny_pack, config)


def test_weights_that_break_in_the_last_step_of_a_refit_are_noticed(tiny_pack, tmp_path):
    only = {**TWO_PHASES["all"], "epochs": 1, "schedule": {"kind": "constant"}, "lr": 1e-3}
    config = settings(tmp_path, phases={"only": only}, batch_size=42)
    _, plan = run(tiny_pack, config)
    plan.lrs["only"] = 1e300
    with pytest.raises(UserError, match="weights are not finite after phase only, epoch 1"):
        run(tiny_pack, config, names=("train", None), plan=plan)


def test_more_processes_than_pairs_of_images_are_too_few_images(tiny_pack, tmp_path):
    config = settings(tmp_path, dataset__name="tiny", batch_size=60)
    with pytest.raises(UserError, match="devices: 30 processes .* 42 training images; use fewer devices"):
        TrainingRun(config, paths.Run("tiny", "resnet18", 0), World(size=30), "code")


def test_the_range_test_leaves_the_network_as_it_was_to_the_bit(tiny_pack, tmp_path):
    config = settings(tmp_path, phases__warm__lr="auto")
    net = build.build_model("resnet18", 3, "none", config.head, 0)
    layer_groups.set_trainable(net, "head+norm")
    before = copy.deepcopy(net.state_dict())
    points = choose_lr.run_lr_range_test(
        PhaseContext(TrainingSetup(net, config, 0, split(tiny_pack, "train"), torch.float32), "warm")
    )
    assert len(points) > 20 and points[-1].lr > points[0].lr
    assert same_bits(before, net.state_dict())
    assert all(p.grad is None for p in net.parameters())


def test_lr_auto_takes_the_suggestion_and_lr_range_test_alone_only_looks(tiny_pack, tmp_path):
    tested = run(tiny_pack, settings(tmp_path, phases__warm__lr_range_test=True))[1]
    auto = run(tiny_pack, settings(tmp_path, phases__warm__lr="auto"))[1]
    assert tested.lr_range_tests == auto.lr_range_tests and set(tested.lr_range_tests) == {"warm"}
    assert tested.lrs == {"warm": 0.02, "all": 0.02}
    assert auto.lrs == {"warm": lr_finder.suggest(auto.lr_range_tests["warm"], "valley"), "all": 0.02}
    plain = run(tiny_pack, settings(tmp_path))[1]
    assert same_bits(plain.weights, tested.weights)


def test_the_average_is_what_is_validated_and_kept(tiny_pack, tmp_path):
    net, history = run(tiny_pack, settings(tmp_path, ema_decay=0.9))
    plain = run(tiny_pack, settings(tmp_path))[1]
    assert [r["train_loss"] for r in history.rows] == [r["train_loss"] for r in plain.rows]
    assert [r["val_loss"] for r in history.rows] != [r["val_loss"] for r in plain.rows]
    assert history.weights.keys() == net.state_dict().keys()
    again = build.build_model("resnet18", 3, "none", HeadParams(), 9)
    again.load_state_dict(history.weights)
    logits, labels = inference.predict_split(again, split(tiny_pack, "val"), 32, dtype=torch.float32)
    assert (logits.argmax(1) == labels).double().mean().item() == history.best["val_top1"]


def test_patience_ends_a_phase_and_a_refit_repeats_its_epochs_and_rates_on_train_and_val(tiny_pack, tmp_path):
    more = {"phases__all__epochs": 30, "phases__all__patience_epochs": 2, "phases__warm__lr": "auto"}
    config = settings(tmp_path, refit=True, **more)
    _, chosen = run(tiny_pack, config)
    done = chosen.epochs("all")
    assert done < 30 and chosen.stopped == ["all"]
    assert chosen.epochs_since_best("all") == 2
    net, final = run(tiny_pack, config, names=("train+val", None), plan=chosen)
    assert (final.epochs("warm"), final.epochs("all")) == (1, done)
    assert final.lrs == chosen.lrs and not final.lr_range_tests
    assert final.best is final.rows[-1] and "val_top1" not in final.best
    assert final.rows[0]["train_images"] == 57
    assert same_bits(final.weights, net.state_dict())


def test_a_kill_during_the_refit_does_not_repeat_the_choosing_run(tiny_pack, tmp_path, monkeypatch):
    config = settings(tmp_path, refit=True)
    train, val = split(tiny_pack, "train"), split(tiny_pack, "val")
    for attempt in range(2):
        history = TrainingHistory()
        net = build.build_model("resnet18", 3, "none", config.head, 0)
        setup = TrainingSetup(net, config, 0, train, torch.float32)
        with pytest.raises(Killed), checkpoint.Checkpointer("tiny", {}) as checkpointer:
            if attempt:
                monkeypatch.setattr(loop, "train_steps", None)  # would fail if called
            assert len(list(loop.fit(setup, val, checkpointer, history))) == 4
            raise Killed
        assert history.weights


def test_clipping_bounds_what_a_step_can_do(tiny_pack, tmp_path):
    """Plain SGD moves the weights by lr times the gradient: its norm is at most lr * clip_norm."""
    plain = {**TWO_PHASES["all"], "epochs": 1, "schedule": {"kind": "constant"}}
    plain |= {
        "optimizer": {"kind": "sgd", "momentum": 0.0},
        "clip_norm": 0.01,
        "lr": 1.0,
        "layer_lr_multipliers": [1.0] * 3,
    }
    config = settings(tmp_path, phases={"all": plain}, batch_size=42)
    start = dict(build.build_model("resnet18", 3, "none", config.head, 0).named_parameters())
    net, _ = run(tiny_pack, config)
    moved = torch.stack([(p - start[name]).square().sum() for name, p in net.named_parameters()]).sum().sqrt()
    assert moved.item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "do not fit the GPU's memory; halve it"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."),
            "do not fit this machine's memory; halve it",
        ),
        (MemoryError(), "do not fit this machine's memory; halve it"),
    ],
)
def test_too_little_memory_names_the_batch_size_that_counts(tiny_pack, tmp_path, monkeypatch, error, message):
    def fail(*_):
        raise error

    monkeypatch.setattr(torch.nn.Conv2d, "forward", fail)
    with pytest.raises(UserError, match=f"params.yaml: batch_size: 6 images of 32 px {message}"):
        run(tiny_pack, settings(tmp_path))
    own = settings(tmp_path, phases__warm__batch_size=4)
    with pytest.raises(UserError, match=f"params.yaml: phases.warm.batch_size: 4 images of 32 px {message}"):
        run(tiny_pack, own)
