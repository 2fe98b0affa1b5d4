"""A saved model is loaded as it was, and a damaged or invalid one is rejected by file and key."""

import hashlib
import json

import pytest
import torch
from architectures import LINEAR

from finegrain.core.errors import UserError
from finegrain.models import build, storage

METADATA = {
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
}


@pytest.fixture
def saved(tmp_path):
    """A network and its two files."""
    net = build.build_model("resnet18", 3, "none", LINEAR, seed=3)
    weights, sidecar = tmp_path / "m.safetensors", tmp_path / "m.json"
    storage.save_model(weights, sidecar, net.state_dict(), METADATA)
    return net, weights, sidecar


def test_a_loaded_model_gives_the_same_logits(saved):
    net, weights, sidecar = saved
    loaded, metadata = storage.load_model(weights, sidecar)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(net.eval()(images), loaded.eval()(images))
    assert metadata.items() >= METADATA.items()


def test_a_model_from_before_there_were_fits_is_squashed(saved):
    _, weights, sidecar = saved
    assert "pack_fit" not in json.loads(sidecar.read_text())
    assert storage.load_model(weights, sidecar)[1]["pack_fit"] == "squash"


def test_a_flipped_byte_is_detected(saved):
    _, weights, sidecar = saved
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"m\.safetensors: .*sha256.*dvc checkout"):
        storage.load_model(weights, sidecar)


def test_missing_weights_are_rejected(saved):
    _, weights, sidecar = saved
    weights.unlink()
    with pytest.raises(UserError, match=r"m\.safetensors: .*dvc pull"):
        storage.load_model(weights, sidecar)


@pytest.mark.parametrize("content", [{"format": 0}, {"format": 3}, {}, []])
def test_another_format_is_rejected(saved, content):
    _, weights, sidecar = saved
    sidecar.write_text(json.dumps(content))
    version = content["format"] if content else None
    with pytest.raises(UserError, match=rf"m\.json: format {version}.* format 4; train the model again"):
        storage.load_model(weights, sidecar)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "os.system"}, "model: 'os.system': must be 'resnet18'"),
        ({"classes": ["a", "b"]}, r"m\.safetensors: .* m\.json"),
        ({"classes": "abc"}, "classes: 'abc': must be a list"),
        ({"std": [0.0, 0.2, 0.2]}, "std.0: 0.0: must be at least"),
        ({"mean": [float("nan")] * 3}, "mean.0: nan: must be a finite number"),
        ({"recipe": {"head": {"widths": [9]}}}, r"m\.safetensors: .* m\.json"),
        ({"pack_fit": "stretch"}, "pack_fit: 'stretch': must be 'squash'"),
        ({"sha256": "0"}, "sha256: '0': must be 64"),
    ],
)
def test_invalid_metadata_is_rejected(saved, changes, message):
    _, weights, sidecar = saved
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        storage.load_model(weights, sidecar)


@pytest.mark.parametrize("content", [b"", b"\x80\x05cos\nsystem\n.", b"\xff" * 8 + b"{}"])
def test_weights_that_are_not_safetensors_are_rejected(saved, content):
    _, weights, sidecar = saved
    weights.write_bytes(content)
    metadata = json.loads(sidecar.read_text()) | {"sha256": hashlib.sha256(content).hexdigest()}
    sidecar.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"m\.safetensors: does not fit"):
        storage.load_model(weights, sidecar)
