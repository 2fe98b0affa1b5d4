"""Every supported family is built, cut into groups, frozen, saved and loaded through one code path."""

import hashlib
import json
from typing import get_args

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from finegrain.config import params, training
from finegrain.config.training import HeadParams
from finegrain.core.errors import UserError
from finegrain.models import build, layer_groups, storage
from finegrain.training import optim

LINEAR = HeadParams()
HEADS = [
    LINEAR,
    HeadParams(widths=[1024, 512, 256, 128], dropouts=[0.5, 0.2, 0.2, 0.2, 0.2], activation="none"),
    HeadParams(widths=[512], dropouts=[0.25, 0.5], batch_norm=True, pool="avg+max"),
]
FAMILIES = ["resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "efficientnet_b0"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("wanted", HEADS, ids=["linear", "cifar100", "fastai"])
def test_every_family_takes_every_head_and_its_blocks_hold_everything_once(name, wanted):
    net = build.build_model(name, 7, "none", wanted, seed=0)
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    blocks = layer_groups.layer_groups(net)
    assert all(parameters for _, parameters in blocks)
    groups = [group for group, _ in blocks]
    assert groups == sorted(groups) and set(groups) == {0, 1, 2} and groups.count(2) == 1
    ids = [id(p) for _, parameters in blocks for p in parameters]
    assert sorted(ids) == sorted(id(p) for p in net.parameters())
    assert ids[-len(list(build.get_head(net).parameters())) :] == [
        id(p) for p in build.get_head(net).parameters()
    ]


def test_the_cifar100_head_is_the_project_s_exactly():
    net = build.build_model("resnet50", 100, "none", HEADS[1], seed=0)
    shown = [
        (type(layer).__name__, getattr(layer, "p", None) or (layer.in_features, layer.out_features))
        for layer in build.get_head(net)
    ]
    assert shown == [
        ("Dropout", 0.5), ("Linear", (2048, 1024)), ("Dropout", 0.2), ("Linear", (1024, 512)),
        ("Dropout", 0.2), ("Linear", (512, 256)), ("Dropout", 0.2), ("Linear", (256, 128)),
        ("Dropout", 0.2), ("Linear", (128, 100)),
    ]  # fmt: skip


def test_the_fastai_head_sees_means_and_maxima():
    net = build.build_model("resnet18", 5, "none", HEADS[2], seed=0)
    kinds = [type(layer).__name__ for layer in build.get_head(net)]
    assert kinds == ["BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert build.get_head(net)[2].in_features == 2 * 512
    features = torch.randn(2, 3, 4, 4)
    pooled = net.avgpool(features)
    assert torch.equal(pooled.flatten(1), torch.cat((features.amax((2, 3)), features.mean((2, 3))), 1))


def test_every_name_has_a_head_where_the_family_has_it():
    for name in get_args(params.ModelName):
        with torch.device("meta"):
            net = torchvision.models.get_model(name, weights=None)
        assert isinstance(list(build.get_head(net).modules())[-1], nn.Linear), name


def test_random_weights_depend_on_the_seed_alone_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (build.build_model("resnet18", 3, "none", LINEAR, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.conv1.weight, again.conv1.weight) and torch.equal(
        first.fc.weight, again.fc.weight
    )
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


@pytest.mark.parametrize("frozen", [False, True], ids=["statistics updated", "statistics frozen"])
@pytest.mark.parametrize("part", ["head", "head+norm", "all"])
@pytest.mark.parametrize("wanted", [HEADS[0], HEADS[2]], ids=["linear", "mlp"])
def test_frozen_means_frozen(part, frozen, wanted):
    """No tensor moves that the part leaves out, whatever the optimizer and its weight decay."""
    net = build.build_model("resnet18", 3, "none", wanted, seed=0)
    layer_groups.set_trainable(net, part)
    layer_groups.set_train_mode(net, part, frozen)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    phase = training.Phase.model_validate(
        {
            "part": part,
            "epochs": 1,
            "image_size": 32,
            "optimizer": {"kind": "adamw", "weight_decay": 0.1},
            "schedule": {"kind": "constant"},
        }
    )
    optimizer = optim.build_optimizer(layer_groups.layer_groups(net), phase, lr=0.1)
    for _ in range(2):
        net(torch.randn(4, 3, 32, 32)).square().sum().backward()
        optimizer.step()
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    head = {k for k in before if k.startswith("fc.")}
    norms = {k for k in before if ".bn" in k or k.startswith("bn1") or "downsample.1" in k}
    statistics = {k for k in norms if "running" in k or "num_batches" in k}
    expected = {"head": head | statistics, "head+norm": head | norms, "all": set(before)}[part]
    assert moved == expected - (statistics if frozen else set())
    with_state = {id(p) for p in optimizer.state}
    assert with_state == {id(p) for p in net.parameters() if p.requires_grad}
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())


def test_a_wholly_frozen_body_drops_nothing():
    """EfficientNet's stochastic depth would make a frozen body give other features at every step."""
    net = build.build_model("efficientnet_b0", 3, "none", LINEAR, seed=0)
    layer_groups.set_train_mode(net, "head", frozen_statistics=True)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(net.features(images), net.features(images))
    layer_groups.set_train_mode(net, "all", frozen_statistics=False)
    assert not torch.equal(net.features(images), net.features(images))


def write_backbone(folder, name, suffix) -> tuple[str, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    state = torchvision.models.get_model(name, weights=None).state_dict()
    file = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save(state, file)
    return str(file), state


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_gives_the_backbone_and_a_new_head(tmp_path, suffix):
    file, state = write_backbone(tmp_path, "resnet18", suffix)
    net = build.build_model("resnet18", 4, file, LINEAR, seed=0)
    assert torch.equal(net.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert net.fc.weight.shape == (4, 512)


def test_weights_of_another_architecture_are_refused(tmp_path):
    file, _ = write_backbone(tmp_path, "resnet18", ".pth")
    with pytest.raises(UserError, match="does not fit resnet50: .* tensors differ"):
        build.build_model("resnet50", 4, file, LINEAR, seed=0)


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x05cos\nsystem\n."])
def test_a_broken_or_hostile_weights_file_is_refused(tmp_path, content):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        build.build_model("resnet18", 4, str(file), LINEAR, seed=0)


def test_a_missing_file_and_an_unknown_name_say_what_is_allowed(tmp_path):
    with pytest.raises(UserError, match="is not a file"):
        build.build_model("resnet18", 4, str(tmp_path / "no.pth"), LINEAR, seed=0)
    with pytest.raises(UserError, match="no 'IMAGENET1K_V3'; allowed: none, IMAGENET1K_V1"):
        build.build_model("resnet18", 4, "IMAGENET1K_V3", LINEAR, seed=0)


def test_pretrained_weights_come_from_torch_s_hub_folder(tmp_path, monkeypatch):
    """The real torchvision path, with a stand-in file whose hash its name carries."""
    file, state = write_backbone(tmp_path, "resnet18", ".pth")
    content = (tmp_path / "weights.pth").read_bytes()
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    known = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(known.value, "url", f"http://127.0.0.1:9/{name}", raising=False)
    net = build.build_model("resnet18", 4, "IMAGENET1K_V1", LINEAR, seed=0)
    assert torch.equal(net.conv1.weight, state["conv1.weight"])


def test_without_network_the_message_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    known = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(known.value, "url", "http://127.0.0.1:9/resnet18-00000000.pth", raising=False)
    with pytest.raises(UserError, match=r"cannot be fetched .*\n.*hub/checkpoints/resnet18-0+\.pth"):
        build.build_model("resnet18", 4, "IMAGENET1K_V1", LINEAR, seed=0)


def saved(tmp_path):
    net = build.build_model("resnet18", 3, "none", LINEAR, seed=3)
    weights, sidecar = tmp_path / "m.safetensors", tmp_path / "m.json"
    storage.save_model(
        weights,
        sidecar,
        net.state_dict(),
        {
            "model": "resnet18",
            "classes": ["a", "b", "c"],
            "image_size": 32,
            "pack_image_size": 32,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.2, 0.2, 0.2],
            "refit": False,
            "temperature": 1.2,
            "unknown_below": 0.3,
            "recipe": {"head": {}},
        },
    )
    return net, weights, sidecar


def test_save_and_load_give_the_same_logits(tmp_path):
    net, weights, sidecar = saved(tmp_path)
    again, facts = storage.load_model(weights, sidecar)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(net.eval()(images), again.eval()(images))
    assert facts["classes"] == ["a", "b", "c"]


def test_a_flipped_byte_is_noticed(tmp_path):
    _, weights, sidecar = saved(tmp_path)
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        storage.load_model(weights, sidecar)


def test_another_format_and_a_missing_file_are_refused(tmp_path):
    _, weights, sidecar = saved(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="dvc pull"):
        storage.load_model(weights, sidecar)
    sidecar.write_text('{"format": 0}')
    with pytest.raises(UserError, match="format 0 instead of 3"):
        storage.load_model(weights, sidecar)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "os.system"}, "model: Input should be 'resnet18'"),
        ({"classes": ["a", "b"]}, "m.safetensors: does not fit m.json"),
        ({"classes": "abc"}, "classes: Input should be a valid list"),
        ({"std": [0.0, 0.2, 0.2]}, "std.0: Input should be greater than 0"),
        ({"mean": [float("nan")] * 3}, "mean.0: Input should be a finite number"),
        ({"recipe": {"head": {"widths": [9]}}}, "does not fit m.json"),
        ({"sha256": "0"}, "sha256: String should match"),
    ],
)
def test_a_sidecar_that_does_not_describe_the_weights_is_refused(tmp_path, changes, message):
    _, weights, sidecar = saved(tmp_path)
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        storage.load_model(weights, sidecar)


@pytest.mark.parametrize("content", [b"", b"\x80\x05cos\nsystem\n.", b"\xff" * 8 + b"{}"])
def test_weights_that_are_no_safetensors_are_refused(tmp_path, content):
    _, weights, sidecar = saved(tmp_path)
    weights.write_bytes(content)
    facts = json.loads(sidecar.read_text()) | {"sha256": hashlib.sha256(content).hexdigest()}
    sidecar.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="m.safetensors: does not fit"):
        storage.load_model(weights, sidecar)


def test_weights_of_a_model_with_other_classes_and_another_head_give_the_backbone(tmp_path):
    trained, weights, _ = saved(tmp_path)
    net = build.build_model("resnet18", 7, str(weights), HeadParams(widths=[16], batch_norm=True), seed=1)
    assert torch.equal(net.layer4[1].conv2.weight, trained.layer4[1].conv2.weight)
    assert build.get_head(net)[-1].out_features == 7
