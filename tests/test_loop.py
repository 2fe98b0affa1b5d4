"""fit() learns, chooses by validation, stops on a bad loss, and a killed run resumes to the same bits."""

import copy

import pytest
import torch
from test_params import changed

from finegrain import checkpoint, loop, model, packed, params
from finegrain.errors import UserError

CPU = torch.device("cpu")
TWO_PHASES = {
    "warm": {
        "part": "head+norm",
        "epochs": 1,
        "side_pixels": 32,
        "optimizer": {"kind": "adamw"},
        "schedule": {"kind": "constant"},
    },
    "all": {
        "part": "all",
        "epochs": 3,
        "side_pixels": 32,
        "optimizer": {"kind": "sgd", "momentum": 0.9},
        "schedule": {"kind": "one_cycle"},
        "lr_factors": [0.5, 1.0, 1.0],
    },
}


class Killed(Exception):
    """Stands for a kill: leaves fit() at once."""


def settings(tmp_path, **more) -> params.Params:
    more = {
        "phases": copy.deepcopy(TWO_PHASES),
        "batch_size": 6,
        "lr": 0.02,
        "checkpoint_seconds": 0.0,
    } | more
    return params.read(changed(tmp_path, **more))


def run(pack, config, stop_after=None, bf16=False):
    train, val = (packed.Split(pack, name, CPU, pretrained=False) for name in ("train", "val"))
    net, best, rows = model.build("resnet18", 3, "none", config.seed), loop.Best(), []
    with checkpoint.Keeper("tiny-resnet18", config.model_dump(mode="json"), []) as keeper:
        for row in loop.fit(net, config, train, val, keeper, best, bf16):
            rows.append(row)
            if stop_after and len(rows) > stop_after:
                raise Killed
    return net, best, rows


def deterministic(rows):
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]


def test_fit_learns_and_keeps_the_best_epoch_by_validation(tiny_pack, tmp_path):
    net, best, rows = run(tiny_pack, settings(tmp_path, phases__all__epochs=6))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["phase"] for row in rows] == ["warm"] + ["all"] * 6
    assert best.row["val_top1"] == max(row["val_top1"] for row in rows) >= 0.8
    again = model.build("resnet18", 3, "none", 9)
    again.load_state_dict(best.weights)
    val = packed.Split(tiny_pack, "val", CPU, pretrained=False)
    logits, labels = loop.predict(again, val, 5, 32, bf16=False)
    assert (logits.argmax(1) == labels).double().mean().item() == best.row["val_top1"]


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_killed_run_resumes_to_the_same_bits(tiny_pack, tmp_path, stop_after):
    config = settings(tmp_path)
    _, best, rows = run(tiny_pack, config)
    with pytest.raises(Killed):
        run(tiny_pack, config, stop_after=stop_after)
    _, best_again, rows_again = run(tiny_pack, config)
    assert deterministic(rows) == deterministic(rows_again)
    assert best.row["epoch"] == best_again.row["epoch"]
    assert all(torch.equal(v, best_again.weights[k]) for k, v in best.weights.items())


def test_a_resumed_run_does_not_train_the_finished_epochs_again(tiny_pack, tmp_path, monkeypatch):
    config = settings(tmp_path)
    with pytest.raises(Killed):
        run(tiny_pack, config, stop_after=3)
    trained = []
    real = packed.Split.train_batches

    def counted(self, epoch, *args):
        trained.append(epoch)
        return real(self, epoch, *args)

    monkeypatch.setattr(packed.Split, "train_batches", counted)
    run(tiny_pack, config)
    assert trained == [4]


def test_a_loss_that_is_not_finite_stops_with_phase_epoch_and_rate(tiny_pack, tmp_path):
    with pytest.raises(UserError, match=r"train loss is (nan|inf) in phase warm, epoch \d, lr .*lower lr"):
        run(tiny_pack, settings(tmp_path, lr=1e12))


def test_predict_gives_each_image_once_whatever_the_batch_size(tiny_pack):
    net = model.build("resnet18", 3, "none", 0)
    test = packed.Split(tiny_pack, "test", CPU, pretrained=False)
    one, labels = loop.predict(net, test, 5, 32, bf16=False)
    other, _ = loop.predict(net, test, 18, 32, bf16=False)
    assert one.shape == (18, 3) and torch.equal(labels, test.labels)
    assert torch.allclose(one, other, atol=1e-5)
