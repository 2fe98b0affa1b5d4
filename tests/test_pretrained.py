"""Networks begin with the weights of torchvision, a file, the Hub, or a trained model with its head."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import narrow_resnet
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from architectures import COVARIANCE, LINEAR
from hub_stub import COMMIT, HubStub
from params_file import write_params
from torch import nn
from untrained import save_untrained

import train
from finegrain.config import params
from finegrain.config.training import HeadParams
from finegrain.core import paths
from finegrain.core.errors import UserError
from finegrain.loading.batches import IMAGENET_MEAN_STD
from finegrain.models import build, pretrained
from finegrain.models.build import InitialWeights
from finegrain.runtime.distributed import SINGLE_PROCESS
from finegrain.training.run import TrainingRun

MLP = HeadParams(widths=[16], dropouts=[0.1, 0.2], batch_norm=True)
HALVES = ([0.5] * 3, [0.2] * 3)
"""Mean and standard deviation of the helpers' models."""


@pytest.fixture(autouse=True)
def small_networks(monkeypatch, tmp_path):
    narrow_resnet.use_instead_of(monkeypatch, "resnet18", "resnet34")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))


def random_state(seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return narrow_resnet.NarrowResNet().state_dict()


def read(weights: Path | str, model: str = "resnet18") -> InitialWeights:
    found = pretrained.read_weights(model, str(weights))
    assert found != "none"
    return found


def start(
    weights: Path | str, classes: int | list[str], head: HeadParams = LINEAR, seed: int = 0
) -> nn.Module:
    return build.build_model("resnet18", classes, read(weights), head, seed).eval()


def trained(folder: Path, classes: str, head: HeadParams = LINEAR, **more: Any) -> nn.Module:
    """Save a trained model as stage winner and `finegrain export` do."""
    weights, sidecar = paths.exported_model(folder)
    save_untrained(weights, sidecar, classes.split(), head=head, **more)
    net = build.build_model("resnet18", len(classes.split()), "none", head, seed=0).eval()
    net.load_state_dict(safetensors.torch.load_file(weights))
    return net


# --- files


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_gives_the_backbone_and_a_new_head(tmp_path, suffix):
    file, state = tmp_path / f"w{suffix}", random_state()
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(state, file)
    net, random = start(file, 4), build.build_model("resnet18", 4, "none", LINEAR, seed=0)
    body = build.get_body_state(net)
    assert body.keys() == {key for key in state if not key.startswith("fc.")}
    assert all(torch.equal(value, state[key]) for key, value in body.items())
    assert torch.equal(net.fc.weight, random.fc.weight) and net.fc.weight.shape == (4, 128)
    found = read(file)
    assert found.mean_std == IMAGENET_MEAN_STD
    assert found.origin == {"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_old_files_without_the_counters_of_batches_fit(tmp_path):
    state = {k: v for k, v in random_state().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    assert torch.equal(start(tmp_path / "old.pth", 3).conv1.weight, state["conv1.weight"])


def test_a_mismatch_names_the_file_the_first_tensors_and_what_was_expected(tmp_path):
    state = random_state()
    state["conv1.weight"] = state["conv1.weight"][:, :1].contiguous()
    state["stem.weight"] = state.pop("bn1.weight")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError) as caught:
        start(tmp_path / "w.safetensors", 3)
    message = str(caught.value)
    assert "w.safetensors does not fit resnet18: 3 tensors differ: " in message
    assert "conv1.weight is [16, 1, 3, 3], expected [16, 3, 3, 3]" in message
    assert "bn1.weight is missing, expected [16]" in message
    assert "stem.weight is [16], expected no such tensor" in message


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x05cos\nsystem\n."])
def test_a_broken_or_hostile_weights_file_is_rejected(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"weights: .*weights\.pth cannot be read"):
        read(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["no.pth", "no.safetensors", "folder"])
def test_a_missing_weights_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"weights: .*{name}.* does not exist"):
        read(tmp_path / name)


def test_a_file_of_another_kind_is_rejected(tmp_path):
    (tmp_path / "w.onnx").touch()
    with pytest.raises(UserError, match=r"w\.onnx is no \.safetensors, \.pth, \.pt file"):
        read(tmp_path / "w.onnx")


# --- torchvision


def test_an_unknown_weights_name_lists_the_allowed_ones():
    with pytest.raises(UserError, match="'IMAGENET1K_V3'; allowed: none, IMAGENET1K_V1, DEFAULT"):
        read("IMAGENET1K_V3")


def stand_in(
    monkeypatch: pytest.MonkeyPatch, weights: Any, state: dict[str, torch.Tensor], folder: Path
) -> str:
    """Put a file where torch.hub keeps its downloads; returns its name, which carries its hash."""
    file = folder / "torch-home/hub/checkpoints/stand-in.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)
    name = f"resnet-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(file.with_name(name))
    monkeypatch.setattr(weights.value, "url", f"http://127.0.0.1:9/{name}", raising=False)
    return name


def test_default_is_the_best_of_each_network_and_recorded_by_its_name(tmp_path, monkeypatch):
    """torchvision's own code reads a stand-in file."""
    state = random_state()
    name = stand_in(monkeypatch, torchvision.models.ResNet18_Weights.IMAGENET1K_V1, state, tmp_path)
    found = read("DEFAULT")
    assert found.origin == {"name": "IMAGENET1K_V1", "file": name}
    assert found.mean_std == IMAGENET_MEAN_STD
    assert torch.equal(start("DEFAULT", 4).conv1.weight, state["conv1.weight"])
    name = stand_in(monkeypatch, torchvision.models.ResNet50_Weights.IMAGENET1K_V2, state, tmp_path)
    assert read("DEFAULT", "resnet50").origin == {"name": "IMAGENET1K_V2", "file": name}


def test_the_normalization_is_the_one_of_the_weights(tmp_path, monkeypatch):
    weights = torchvision.models.EfficientNet_V2_L_Weights.IMAGENET1K_V1
    stand_in(monkeypatch, weights, random_state(), tmp_path)
    assert read("DEFAULT", "efficientnet_v2_l").mean_std == ([0.5] * 3, [0.5] * 3)


def test_a_failed_download_names_the_url_and_where_to_save_the_file(monkeypatch):
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    url = "http://127.0.0.1:9/resnet18-00000000.pth"
    monkeypatch.setattr(weights.value, "url", url, raising=False)
    with pytest.raises(UserError) as caught:
        read("IMAGENET1K_V1")
    message = str(caught.value)
    assert message.startswith("params.yaml: weights: IMAGENET1K_V1 of resnet18 ")
    assert url in message and "hub/checkpoints/resnet18-00000000.pth" in message


# --- timm and the Hub

TIMM = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}


def timm_files(config: Any = TIMM) -> dict[str, bytes]:
    return {
        "model.safetensors": safetensors.torch.save(random_state()),
        "config.json": json.dumps(config).encode(),
        "pytorch_model.bin": b"not used",
    }


def test_a_folder_of_timm_has_its_own_normalization(tmp_path):
    for name, content in timm_files().items():
        (tmp_path / name).write_bytes(content)
    assert read(tmp_path).mean_std == (TIMM["pretrained_cfg"]["mean"], TIMM["pretrained_cfg"]["std"])
    assert torch.equal(start(tmp_path, 2).conv1.weight, random_state()["conv1.weight"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TIMM | {"architecture": "resnetaa18"}, "is a resnetaa18, not a resnet18; .*{resnetaa18: "),
        ({"num_classes": 5}, "config.json: architecture: Field required"),
        (TIMM | {"pretrained_cfg": {"std": [0.1, 0, 0.1]}}, "config.json: pretrained_cfg.std.1: "),
    ],
)
def test_a_network_that_has_the_same_tensors_and_computes_something_else_is_rejected(
    tmp_path, config, message
):
    for name, content in timm_files(config).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


@pytest.fixture
def on_the_hub(monkeypatch):
    """A stub of the Hub with a repository of timm and others."""
    bad = timm_files() | {"model.safetensors": b"changed on the way"}
    repositories = {"timm/resnet18.a1_in1k": timm_files(), "timm/none": {"README.md": b""}, "timm/bad": bad}
    with HubStub(repositories) as hub:
        hub.sha256["timm/bad"] = {"model.safetensors": "0" * 64}
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def test_a_repository_is_downloaded_once_checked_and_recorded_with_its_commit(on_the_hub):
    weights = f"timm/resnet18.a1_in1k@{COMMIT}"
    net = start(weights, 3)
    assert torch.equal(net.conv1.weight, random_state()["conv1.weight"])
    base = f"GET /timm/resnet18.a1_in1k/resolve/{COMMIT}"
    downloads = [request for request in on_the_hub.requests if "/resolve/" in request]
    assert downloads == [f"{base}/config.json", f"{base}/model.safetensors"]
    on_the_hub.requests.clear()
    found = read(weights)
    assert not on_the_hub.requests
    digest = hashlib.sha256(timm_files()["model.safetensors"]).hexdigest()
    assert found.origin == {"name": weights, "sha256": digest} and found.mean_std[0] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"timm/bad@{COMMIT}", "timm/bad@c+ cannot be downloaded .*invalid hash value"),
        (f"timm/none@{COMMIT}", "timm/none@c+ holds no model.safetensors with config.json"),
        (f"timm/other@{COMMIT}", r"cannot be downloaded .*404.*\n.*[Cc]heck its name and commit"),
        (
            f"timm/resnet18.a1_in1k@{'d' * 40}",
            r"cannot be downloaded .*404.*\n.*[Cc]heck its name and commit",
        ),
    ],
)
def test_what_the_hub_has_not_or_gives_damaged_is_rejected_and_not_kept(on_the_hub, tmp_path, name, message):
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            read(name)
    assert not list((tmp_path / "torch-home").rglob("*.safetensors"))


def test_without_a_network_the_message_says_where_the_files_can_be_put(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError) as caught:
        read(f"timm/resnet18.a1_in1k@{COMMIT}")
    place = f"checkpoints/timm--resnet18.a1_in1k@{COMMIT}/model.safetensors"
    assert place in str(caught.value) and f"/resolve/{COMMIT}/model.safetensors" in str(caught.value)


# --- trained models


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
    facts = pretrained.record(read(tmp_path / "v1"), classes, LINEAR)
    assert facts["name"] == "v1" and len(facts["sha256"]) == 64
    assert (
        facts["kept_classes"] == 2
        and facts["new_classes"] == ["moth"]
        and facts["dropped_classes"] == ["cat"]
    )
    line = pretrained.describe(facts)
    assert "2 classes kept" in line and "new: moth" in line and "dropped: cat" in line


def test_of_another_head_the_layers_before_it_are_kept(tmp_path):
    old = trained(tmp_path / "v1", "ant bee")
    net = start(tmp_path / "v1", ["ant", "bee"], MLP, seed=5)
    fresh = build.build_model("resnet18", 2, "none", MLP, seed=5)
    assert torch.equal(net.layer4[0].conv2.weight, old.layer4[0].conv2.weight)
    assert torch.equal(build.get_last_layer(net).weight, build.get_last_layer(fresh).weight)
    facts = pretrained.record(read(tmp_path / "v1"), ["ant", "bee"], MLP)
    assert facts["head"] == "new" and "params.yaml's, which is new" in pretrained.describe(facts)


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
    assert "no mine.json beside it, so its head is not used" in capsys.readouterr().err
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


# --- a training that begins with a trained model


def train_on(project: Path, **changes: Any) -> dict[str, Any]:
    """Train on the tiny pack; returns the sidecar."""
    phase = {
        "trainable": "all", "epochs": 1, "image_size": 32, "optimizer": {"kind": "sgd"},
        "schedule": {"kind": "constant"},
    }  # fmt: skip
    write_params(
        project, dataset__name="tiny", models=["resnet18"], phases={"all": phase}, precision="fp32", **changes
    )
    train.main(["--model", "resnet18", "--seed", "0"])
    return json.loads((project / "models/tiny/resnet18-0.json").read_text())


def add_class(pack: Path) -> None:
    """Add the class ``checks`` between the others: half of the images of ``bars``."""
    facts = json.loads((pack / "pack.json").read_text())
    assert facts["classes"] == ["bars", "dots", "plain"]
    for split in facts["counts"]:
        labels = np.load(pack / f"{split}_labels.npy")
        labels[labels > 0] += 1
        labels[np.flatnonzero(labels == 0)[::2]] = 1
        np.save(pack / f"{split}_labels.npy", labels)
    changes = {"classes": ["bars", "checks", "dots", "plain"], "mean": [0.6] * 3, "std": [0.7] * 3}
    (pack / "pack.json").write_text(json.dumps(facts | changes))


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
