"""A phase that is solved, alone and among trained ones, with heads of their own or without."""

import shutil
from pathlib import Path
from typing import Any

import narrow_resnet
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from params_file import PHASE, SOLVED_PHASE, write_params
from scripted_fit import Killed, deterministic, run, same_bits, split
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from finegrain.config import params
from finegrain.models import build, inference
from finegrain.training import loop
from finegrain.training.history import TrainingHistory
from finegrain.training.phase_networks import PhaseNetworks
from finegrain.training.train_step import TrainingSetup

HEAD = {"pool": "covariance", "stage": ["layer1", "layer2"]}
TRAINED = PHASE | {"epochs": 2, "optimizer": {"kind": "adamw"}, "lr": 0.002}
OWN = {**TRAINED, "head": {"widths": [8]}}
"""A phase with another head; its network has layer3 and layer4, too."""


@pytest.fixture(autouse=True)
def narrow(monkeypatch) -> None:
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")


def settings(folder: Path, phases: dict[str, Any], **more: Any) -> params.Params:
    """The project's settings with these; a value of None leaves the project's."""
    changes = {"phases": phases, "batch_size": 6, "head": HEAD, "augment__crop_scale": [0.8, 1.0]}
    changes |= {key: value for key, value in more.items() if value is not None}
    return params.load_params(write_params(folder, **changes))


def setup_of(pack: Path, config: params.Params) -> TrainingSetup:
    net = build.build_model("resnet18", 3, "none", config.head, 0)
    return TrainingSetup(net, config, 0, split(pack, "train"), torch.float32, "resnet18")


@pytest.fixture
def added(monkeypatch) -> list[dict[str, Tensor]]:
    """The weights that were validated in each epoch."""
    found: list[dict[str, Tensor]] = []
    real = TrainingHistory.add

    def recorded(self: TrainingHistory, row: Any, net: nn.Module, *rest: Any, **named: Any) -> None:
        found.append({name: value.clone() for name, value in net.state_dict().items()})
        real(self, row, net, *rest, **named)

    monkeypatch.setattr(TrainingHistory, "add", recorded)
    return found


@pytest.mark.parametrize("flip", [False, True])
def test_the_head_is_a_ridge_regression_times_one_factor(tiny_pack, tmp_path, flip):
    net, history = run(tiny_pack, settings(tmp_path, {"solve": {**SOLVED_PHASE, "flip": flip}}))
    train, val = split(tiny_pack, "train"), split(tiny_pack, "val")
    images = torch.cat([images for images, _ in train.eval_batches(42, 32)])
    with torch.no_grad():
        features = net.features_of(images)
        if flip:  # the mean of both views
            features = (features + net.features_of(images.flip(3))) / 2
    ridge = Ridge(alpha=history.solved["solve"]["strength"], solver="cholesky")
    ridge.fit(features.double().numpy(), F.one_hot(train.labels).numpy())
    factor = (net.fc.weight.detach().norm() / np.linalg.norm(ridge.coef_)).item()
    assert factor > 1
    np.testing.assert_allclose(net.fc.weight.detach(), factor * ridge.coef_, atol=1e-4 * factor)
    np.testing.assert_allclose(net.fc.bias.detach(), factor * ridge.intercept_, atol=1e-4 * factor)
    logits, labels = inference.predict_split(net, val, 32, dtype=torch.float32, flip=flip)
    assert history.val_logits is not None and history.val_logits.abs().max() > 1
    torch.testing.assert_close(history.val_logits, logits, atol=1e-5, rtol=1e-5)
    assert history.rows[0]["val_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)


def test_the_row_of_the_history_is_leave_one_out(tiny_pack, tmp_path):
    net, history = run(tiny_pack, settings(tmp_path, {"solve": SOLVED_PHASE}))
    labels, loo, (row,) = split(tiny_pack, "train").labels, history.leave_one_out, history.rows
    assert (row["epoch"], row["phase"], row["image_size"], row["train_images"]) == (1, "solve", 32, 42)
    assert row["train_loss"] == pytest.approx(-loo["label_probability"].log().mean().item(), rel=1e-4)
    assert row["train_top1"] == pytest.approx((loo["top_class"] == labels).double().mean().item())
    assert 1 / 3 < row["train_top1"] and 1 / 3 < row["val_top1"]
    right = loo["top_class"] == labels
    assert torch.equal(loo["top_probability"][right], loo["label_probability"][right])
    assert (loo["top_probability"][~right] > loo["label_probability"][~right]).all()
    solved = history.solved["solve"]
    losses = dict(solved["losses"])
    assert losses[solved["strength"]] == min(losses.values()) == row["train_loss"]
    assert solved["learning_curve"][-1]["top1"] == pytest.approx(row["train_top1"])
    assert [point["images"] for point in solved["learning_curve"]] == [3, 9, 21, 42]
    assert history.leave_one_out_top1() == {"images": 42, "top1": row["train_top1"]}
    assert history.best is row and same_bits(history.weights, net.state_dict())


def test_a_strength_that_is_given_is_the_only_one_tried(tiny_pack, tmp_path):
    _, history = run(tiny_pack, settings(tmp_path, {"solve": {**SOLVED_PHASE, "strength": 0.3}}))
    assert [strength for strength, _ in history.solved["solve"]["losses"]] == [0.3]


def test_a_refit_takes_the_strength_of_the_first_and_the_images_of_both(tiny_pack, tmp_path):
    config = settings(tmp_path, {"own": OWN, "solve": SOLVED_PHASE}, refit=True)
    _, chosen = run(tiny_pack, config)
    net, final = run(tiny_pack, config, names=("train+val", None), plan=chosen)
    assert final.solved["solve"]["strength"] == chosen.solved["solve"]["strength"]
    assert len(final.solved["solve"]["losses"]) == 1 and not final.solved["solve"]["learning_curve"]
    assert final.leave_one_out_top1() == {"images": 57, "top1": final.rows[-1]["train_top1"]}
    assert len(final.leave_one_out["top_class"]) == 57
    assert "val_top1" not in final.best and final.best is final.rows[-1]
    assert same_bits(final.weights, net.state_dict())


PHASES = {
    "own, solve": {"own": OWN, "solve": SOLVED_PHASE},
    "solve, all": {"solve": SOLVED_PHASE, "all": TRAINED},
    "all, own, solve": {"all": TRAINED, "own": OWN, "solve": SOLVED_PHASE},
    "all, own, again": {"all": TRAINED, "own": OWN, "again": TRAINED},
}
# fit() calls ``due`` eight times in an epoch of tiny_pack, which has seven batches of six
UNBROKEN: dict[tuple[str, float | None], tuple[nn.Module, TrainingHistory]] = {}
"""Runs to compare with."""


@pytest.mark.parametrize("ema_decay", [None, 0.9], ids=["plain", "averaged"])
@pytest.mark.parametrize(
    ("phases", "saves", "killed_at"),
    [
        pytest.param("own, solve", (3,), 5, id="in an own head's first epoch"),
        pytest.param("own, solve", (8, 11), 13, id="in its second"),
        pytest.param("own, solve", (16,), None, id="before the solve"),
        pytest.param("solve, all", (), 2, id="after the solve"),
        pytest.param("all, own, solve", (19,), 21, id="in an own head after another phase"),
        pytest.param("all, own, again", (19,), 21, id="in an own head between two phases"),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(
    tiny_pack, tmp_path, monkeypatch, phases, saves, killed_at, ema_decay
):
    config = settings(tmp_path, PHASES[phases], ema_decay=ema_decay)
    if (phases, ema_decay) not in UNBROKEN:
        UNBROKEN[phases, ema_decay] = run(tiny_pack, config)
        shutil.rmtree(".checkpoints")
    net, history = UNBROKEN[phases, ema_decay]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if killed_at is None:
            patch.setattr(loop, "solve_phase", raise_killed)
        run(tiny_pack, config, killed_at, saves=saves)
    if phases == "solve, all":
        monkeypatch.setattr(loop, "solve_phase", raise_killed)  # must not be called again
    again_net, again = run(tiny_pack, config)
    assert deterministic(again) == deterministic(history)
    assert same_bits(again_net.state_dict(), net.state_dict())
    assert same_bits(again.weights, history.weights)
    assert again.solved == history.solved and same_bits(again.leave_one_out, history.leave_one_out)


def raise_killed(*_: Any) -> None:
    raise Killed


def test_the_same_training_gives_the_same_bits_with_cached_features_and_without(tiny_pack, tmp_path):
    config = settings(tmp_path, {"own": OWN, "solve": SOLVED_PHASE})
    first_net, first = run(tiny_pack, config)
    for folder in Path(".checkpoints").glob("tiny-*"):
        shutil.rmtree(folder)
    cached_net, cached = run(tiny_pack, config)
    shutil.rmtree(".checkpoints")
    net, history = run(tiny_pack, config)
    assert deterministic(first) == deterministic(cached) == deterministic(history)
    assert same_bits(first_net.state_dict(), cached_net.state_dict())
    assert same_bits(first_net.state_dict(), net.state_dict())


def body_of(state: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state dict that is the body of both networks."""
    return {k: v for k, v in state.items() if k in like and not k.startswith(("fc.", "avgpool."))}


@pytest.mark.parametrize("ema_decay", [None, 0.9], ids=["plain", "averaged"])
def test_the_body_that_an_own_head_has_trained_is_handed_on(tiny_pack, tmp_path, added, ema_decay):
    config = settings(tmp_path, {"own": OWN, "solve": SOLVED_PHASE}, ema_decay=ema_decay)
    start = build.build_model("resnet18", 3, "none", config.head, 0).state_dict()
    net, history = run(tiny_pack, config)
    assert [row["phase"] for row in history.rows] == ["own", "own", "solve"]
    trained, solved = added[1], added[2]
    assert trained["fc.2.weight"].shape == (3, 8) and solved["fc.weight"].shape == (
        3,
        16 * 17 // 2 + 32 * 33 // 2,
    )
    body = body_of(solved, trained)
    assert body.keys() == build.get_body_state(net).keys()
    assert same_bits(body, body_of(trained, solved))
    assert not same_bits(body, body_of(start, trained))
    assert history.best["phase"] == "solve" and same_bits(history.weights, solved)


def test_epochs_of_an_own_head_are_never_the_best(tiny_pack, tmp_path, monkeypatch):
    top1 = {"own": 0.9, "first": 0.5, "last": 0.4}

    def scores(_logits: Tensor, _val: Any, row: dict[str, Any]) -> dict[str, float]:
        return {"val_loss": 0.1, "val_top1": top1[row["phase"]]}

    monkeypatch.setattr(loop, "_validation_scores", scores)
    phases = {"first": SOLVED_PHASE, "own": OWN, "last": SOLVED_PHASE}
    net, history = run(tiny_pack, settings(tmp_path, phases))
    assert history.best["phase"] == "first" and history.weights.keys() == net.state_dict().keys()


def test_rows_of_a_root_are_chosen_once_and_not_again_after_they_were_trained(tiny_pack, tmp_path, added):
    head = {**HEAD, "channels": 4}
    for phases in ({"solve": SOLVED_PHASE}, {"all": TRAINED, "own": OWN, "solve": SOLVED_PHASE}):
        config = settings(tmp_path, phases, head=head)
        start = build.build_model("resnet18", 3, "none", config.head, 0).state_dict()
        run(tiny_pack, config)
        kept = {name: value for name, value in added[-1].items() if name.startswith("avgpool.")}
        assert len(kept) == 2 and not same_bits(kept, {name: start[name] for name in kept})
    assert len(added) == 1 + 5
    assert same_bits(kept, {name: added[2][name] for name in kept})  # after phase all


def test_phases_with_the_same_own_head_continue_one_network(tiny_pack, tmp_path, added):
    still = {**OWN, "lr": 1e-30, "norm_statistics": "frozen", "optimizer": {"kind": "sgd"}, "epochs": 1}
    other = {**still, "head": {"widths": [9]}}
    phases = {"own": OWN, "same": still, "other": other, "solve": SOLVED_PHASE}
    run(tiny_pack, settings(tmp_path, phases))
    _, own, same, another, solved = added
    assert same_bits(own, same)
    assert another["fc.2.weight"].shape == (3, 9)
    assert same_bits(body_of(own, solved), body_of(another, solved))
    assert same_bits(body_of(own, solved), body_of(solved, solved))


def test_a_moving_average_goes_on_with_its_network(tiny_pack, tmp_path):
    phases = {"own": OWN, "same": OWN, "other": {**OWN, "head": {}}, "solve": SOLVED_PHASE, "all": TRAINED}
    networks = PhaseNetworks(setup_of(tiny_pack, settings(tmp_path, phases, ema_decay=0.9)))
    nets, averages = [], []
    for phase in networks.setup.config.phases.values():
        nets.append(networks.enter(phase).net)
        averages.append(networks.average)
    for entered in (nets, averages):
        assert entered[0] is entered[1] and entered[3] is entered[4]
        assert len({id(each) for each in entered}) == 3


@pytest.mark.parametrize("ema_decay", [None, 0.9], ids=["plain", "averaged"])
def test_a_trained_phase_starts_from_the_solved_head(tiny_pack, tmp_path, added, ema_decay):
    """A tiny learning rate keeps it."""
    still = {**TRAINED, "trainable": "head", "lr": 1e-30, "optimizer": {"kind": "sgd"}}
    config = settings(
        tmp_path, {"before": TRAINED, "solve": SOLVED_PHASE, "still": still}, ema_decay=ema_decay
    )
    _, history = run(tiny_pack, config)
    solved = added[2]
    assert len(added) == 5 and all(same_bits(solved, state) for state in added[3:])
    assert not torch.equal(solved["fc.weight"], added[1]["fc.weight"])
    assert same_bits(body_of(solved, solved), body_of(added[1], solved))
    validated = [(row["val_top1"], round(row["val_loss"], 5)) for row in history.rows[2:]]
    assert len(set(validated)) == 1
