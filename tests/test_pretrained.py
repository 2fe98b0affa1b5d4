"""Networks start from the weights of torchvision, a file, or the Hub."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from architectures import LINEAR
from hub_stub import COMMIT, HubStub
from initial_weights import random_state, read, start, use_narrow_networks

from finegrain.core.errors import UserError
from finegrain.loading.batches import IMAGENET_MEAN_STD
from finegrain.models import build


@pytest.fixture(autouse=True)
def small_networks(monkeypatch, tmp_path):
    use_narrow_networks(monkeypatch, tmp_path)


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
    assert "conv1.weight ([16, 1, 3, 3] in the file, [16, 3, 3, 3] in resnet18)" in message
    assert "bn1.weight (missing in the file, [16] in resnet18)" in message
    assert "stem.weight ([16] in the file, missing in resnet18)" in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", r"cannot be read \(it is empty\)"),
        (b"not weights", r"cannot be read \(not a file of torch.save\)"),
        (b"\x80\x05cos\nsystem\n.", r"holds more than tensors; save the network's state_dict\(\)"),
    ],
)
def test_a_broken_or_hostile_weights_file_is_rejected(tmp_path, content, problem):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match=rf"weights: .*weights\.pth {problem}"):
        read(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["no.pth", "no.safetensors", "folder"])
def test_a_missing_weights_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"weights: .*{name}.* not found"):
        read(tmp_path / name)


def test_a_file_of_another_kind_is_rejected(tmp_path):
    (tmp_path / "w.onnx").touch()
    with pytest.raises(UserError, match=r"w\.onnx: must be a file of type \.safetensors, \.pth, \.pt"):
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
        ({"num_classes": 5}, "config.json: architecture: is missing"),
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
