"""Trained models as initial weights: classes and heads that are kept, and a training from one."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from architectures import COVARIANCE, LINEAR
from initial_weights import MLP, read, start, use_narrow_networks
from params_file import PHASE, write_params
from torch import nn
from untrained import save_untrained

import train
from finegrain.config import params
from finegrain.config.training import HeadParams
from finegrain.core import paths
from finegrain.core.errors import UserError
from finegrain.loading.batches import IMAGENET_MEAN_STD
from finegrain.models import build, pretrained
from finegrain.runtime.distributed import SINGLE_PROCESS
from finegrain.training.run import TrainingRun


@pytest.fixture(autouse=True)
def small_networks(monkeypatch, tmp_path):
    use_narrow_networks(monkeypatch, tmp_path)


HALVES = ([0.5] * 3, [0.2] * 3)
"""Mean and standard deviation of the helpers' models."""


def trained(folder: Path, classes: str, head: HeadParams = LINEAR, **more: Any) -> nn.Module:
    """Save a trained model as stage winner and `finegrain export` do."""
    weights, sidecar = paths.exported_model(folder)
    save_untrained(weights, sidecar, classes.split(), head=head, **more)
    net = build.build_model("resnet18", len(classes.split()), "none", head, seed=0).eval()
    net.load_state_dict(safetensors.torch.load_file(weights))
    return net


@pytest.mark.parametrize("head", [LINEAR, MLP, COVARIANCE], ids=["linear", "mlp", "covariance"])
def test_a_trained_model_keeps_its_classes_and_takes_a_new_one(tmp_path, head):
    old = trained(tmp_path / "v1", "ant bee cat", head)
    net = start(tmp_path / "v1", ["ant", "bee", "cat", "bug"], head, seed=7)
    fresh = build.get_last_layer(build.build_model("resnet18", 4, "none", head, seed=7))
    last, before = build.get_last_layer(net), build.get_last_layer(old)
    for name in ("weight", "bias"):
        row, new, other = (getattr(layer, name) for layer in (last, fresh, before))
        assert torch.equal(row[:3], other) and torch.equal(row[3], new[3])
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(net(images)[:, :3], old(images), rtol=1e-5, atol=1e-6)
    others = {
        k: v
        for k, v in net.state_dict().items()
        if not torch.is_tensor(v) or len(v.shape) == 0 or len(v) != 4
    }
    assert all(torch.equal(value, old.state_dict()[key]) for key, value in others.items())


def test_rows_follow_the_names_of_the_classes_and_what_is_gone_is_dropped(tmp_path):
    old = trained(tmp_path / "v1", "ant bee cat")
    classes = ["bee", "moth", "ant"]
    net = start(tmp_path / "v1", classes)
    assert torch.equal(net.fc.weight[[2, 0]], old.fc.weight[:2]) and torch.equal(
        net.fc.bias[[2, 0]], old.fc.bias[:2]
    )
    metadata = pretrained.record(read(tmp_path / "v1"), classes, LINEAR)
    assert metadata["name"] == "v1" and len(metadata["sha256"]) == 64
    assert (
        metadata["kept_classes"] == 2
        and metadata["new_classes"] == ["moth"]
        and metadata["dropped_classes"] == ["cat"]
    )
    line = pretrained.describe(metadata)
    assert "2 classes kept" in line and "new: moth" in line and "dropped: cat" in line


def test_of_another_head_the_layers_before_it_are_kept(tmp_path):
    old = trained(tmp_path / "v1", "ant bee")
    net = start(tmp_path / "v1", ["ant", "bee"], MLP, seed=5)
    fresh = build.build_model("resnet18", 2, "none", MLP, seed=5)
    assert torch.equal(net.layer4[0].conv2.weight, old.layer4[0].conv2.weight)
    assert torch.equal(build.get_last_layer(net).weight, build.get_last_layer(fresh).weight)
    metadata = pretrained.record(read(tmp_path / "v1"), ["ant", "bee"], MLP)
    assert metadata["head"] == "new" and "a new one is trained" in pretrained.describe(metadata)
    solved = pretrained.record(read(tmp_path / "v1"), ["ant", "bee"], None)
    assert solved["head"] == "solved" and "a new one is solved" in pretrained.describe(solved)


def test_dropout_alone_is_no_other_head(tmp_path):
    old = trained(tmp_path / "v1", "ant bee", MLP)
    other = MLP.model_copy(update={"dropouts": [0.4, 0.5]})
    net = start(tmp_path / "v1", ["ant", "bee"], other)
    assert torch.equal(build.get_last_layer(net).weight, build.get_last_layer(old).weight)


def test_a_head_that_needs_later_stages_than_the_model_has_is_rejected(tmp_path):
    trained(tmp_path / "v1", "ant bee", COVARIANCE)
    with pytest.raises(UserError, match="v1 ends with layer3, but head needs layer4"):
        start(tmp_path / "v1", ["ant", "bee"])
    with pytest.raises(UserError, match="ends with layer3, but phases.tune.head needs layer4"):
        read(tmp_path / "v1").require_stages(LINEAR, "phases.tune.head")


def test_the_normalization_goes_with_the_model(tmp_path):
    trained(tmp_path / "v1", "ant bee")
    assert read(tmp_path / "v1").mean_std == HALVES


def test_the_two_files_may_have_any_name_and_the_sidecar_makes_them_a_model(tmp_path, capsys):
    old = trained(tmp_path / "v1", "ant bee")
    for suffix in (".safetensors", ".json"):
        shutil.copy(tmp_path / f"v1/model{suffix}", tmp_path / f"mine{suffix}")
    assert torch.equal(start(tmp_path / "mine.safetensors", ["bee", "ant"]).fc.weight[1], old.fc.weight[0])
    (tmp_path / "mine.json").unlink()
    alone = read(tmp_path / "mine.safetensors")
    assert "no mine.json beside it: its head is not used" in capsys.readouterr().err
    assert alone.head is None and alone.mean_std == IMAGENET_MEAN_STD


def test_a_model_of_another_network_or_a_changed_one_is_rejected(tmp_path):
    trained(tmp_path / "v1", "ant bee")
    with pytest.raises(
        UserError, match=r"v1 is a resnet18, not a resnet34; .*\{resnet18: .*, resnet34: DEFAULT\}"
    ):
        read(tmp_path / "v1", "resnet34")
    file = tmp_path / "v1/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: .*sha256"):
        read(tmp_path / "v1")


def train_on(project: Path, **changes: Any) -> dict[str, Any]:
    """Train on the tiny pack; returns the sidecar."""
    write_params(
        project, dataset__name="tiny", models=["resnet18"], phases={"all": PHASE}, precision="fp32", **changes
    )
    train.main(["--model", "resnet18", "--seed", "0"])
    return json.loads((project / "models/tiny/resnet18-0.json").read_text())


def add_class(pack: Path) -> None:
    """Add the class ``checks`` between the others: half of the images of ``bars``."""
    metadata = json.loads((pack / "pack.json").read_text())
    assert metadata["classes"] == ["bars", "dots", "plain"]
    for split in metadata["counts"]:
        labels = np.load(pack / f"{split}_labels.npy")
        labels[labels > 0] += 1
        labels[np.flatnonzero(labels == 0)[::2]] = 1
        np.save(pack / f"{split}_labels.npy", labels)
    changes = {"classes": ["bars", "checks", "dots", "plain"], "mean": [0.6] * 3, "std": [0.7] * 3}
    (pack / "pack.json").write_text(json.dumps(metadata | changes))


def test_a_fourth_class_is_trained_from_the_model_of_three(tiny_pack, project, capsys):
    first = train_on(project, weights="none")
    assert first["initial_weights"] == {"name": "none"} and first["mean"] == [0.2] * 3
    (project / "v1").mkdir()
    for suffix in ("safetensors", "json"):
        shutil.copy(f"models/tiny/resnet18-0.{suffix}", f"v1/model.{suffix}")
    add_class(tiny_pack)
    capsys.readouterr()
    second = train_on(project, weights={"resnet18": "v1", "resnet50": "DEFAULT"}, refit=True)
    assert second["initial_weights"] == {
        "name": "v1", "sha256": first["sha256"], "head": "kept", "kept_classes": 3,
        "new_classes": ["checks"], "dropped_classes": [],
    }  # fmt: skip
    assert second["recipe"]["weights"] == "v1"
    assert second["classes"] == ["bars", "checks", "dots", "plain"]
    assert (second["mean"], second["std"]) == (first["mean"], first["std"])
    printed = capsys.readouterr().err
    assert "resnet18-0 begins with the weights v1 and its head: 3 classes kept; new: checks" in printed
    config = params.load_params()
    with TrainingRun(config, paths.Run("tiny", "resnet18", 0), SINGLE_PROCESS, "code") as run:
        setup = run.setup(run.train_split)
    old = safetensors.torch.load_file("v1/model.safetensors")
    assert torch.equal(setup.net.fc.weight[[0, 2, 3]].cpu(), old["fc.weight"])
    assert torch.equal(setup.net.layer1[0].bn1.running_mean.cpu(), old["layer1.0.bn1.running_mean"])
    assert setup.weights is run.weights  # phases with a head of their own begin with them too
