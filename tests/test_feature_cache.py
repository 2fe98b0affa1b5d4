"""Features are computed once for each image, whatever is killed, added, removed or reordered."""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import narrow_resnet
import numpy as np
import pytest
import torch
from scripted_fit import Killed, split
from torch import Tensor, nn

from finegrain.config.training import HeadParams
from finegrain.core.errors import UserError
from finegrain.models import build, inference
from finegrain.ridge import feature_cache, features
from finegrain.ridge.feature_cache import KEY_BYTES, FeatureCache

HEAD = HeadParams(pool="covariance", stage=["layer1", "layer2"])
BATCH = 8
"""Six batches of the 42 training images."""
KEY: dict[str, Any] = {"image_size": 32, "flip": False, "dtype": torch.float32, "code": ""}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch) -> None:
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")
    monkeypatch.setattr(features, "BATCH_SIZE", BATCH)


@pytest.fixture
def batches_run(monkeypatch) -> list[int]:
    """Number of images in each batch that goes through the network."""
    found: list[int] = []
    real = inference.last_layer_inputs

    def counted(net: nn.Module, images: Tensor, *arguments: bool) -> Tensor:
        found.append(len(images))
        return real(net, images, *arguments)

    monkeypatch.setattr(inference, "last_layer_inputs", counted)
    return found


def network(seed: int = 0) -> nn.Module:
    return build.build_model("resnet18", 3, "none", HEAD, seed)


def opened(pack: Path, net: nn.Module | None = None, **changes: Any) -> FeatureCache:
    return features.open_cache(net or network(), split(pack, "train"), **KEY | changes)


def compute(pack: Path, net: nn.Module | None = None, names: str = "train", **changes: Any) -> Tensor:
    """Features of a whole split, with what the cache holds already."""
    settings, net = KEY | changes, net or network()
    with opened(pack, net, **changes) as cache:
        settings.pop("code")
        rows = features.compute_features(cache, net, split(pack, names), **settings, label="")
        assert rows is not None
        return rows.read(0, len(rows))


def computed(pack: Path) -> Tensor:
    """Features from an empty cache."""
    shutil.rmtree(".checkpoints", ignore_errors=True)
    return compute(pack)


def with_images(pack: Path, indices: Sequence[int]) -> Path:
    """A pack whose train split has these images of another one's."""
    folder = shutil.copytree(pack, pack.with_name("chosen"), dirs_exist_ok=True)
    for name in ("train", "train_labels"):
        np.save(folder / f"{name}.npy", np.load(pack / f"{name}.npy")[list(indices)])
    metadata = json.loads((pack / "pack.json").read_text())
    metadata["counts"]["train"] = len(indices)
    (folder / "pack.json").write_text(json.dumps(metadata))
    return folder


def the_cache() -> Path:
    (folder,) = Path(".checkpoints/features").iterdir()
    return folder


def test_the_features_are_the_pooled_maps_of_each_image(tiny_pack):
    net, train = network(), split(tiny_pack, "train")
    found = compute(tiny_pack)
    net.eval()
    images = torch.cat([images for images, _ in train.eval_batches(5, 32)])
    with torch.no_grad():
        expected = net.features_of(images)
    assert found.shape == (42, build.get_last_layer(net).in_features)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_second_pass_computes_nothing_and_val_joins_train_in_one_cache(tiny_pack, batches_run):
    first = compute(tiny_pack)
    assert batches_run == [BATCH] * 6  # the last one is filled up
    assert torch.equal(compute(tiny_pack), first) and len(batches_run) == 6
    val = compute(tiny_pack, names="val")
    assert len(batches_run) == 6 + 2
    both = compute(tiny_pack, names="train+val")
    assert len(batches_run) == 8 and torch.equal(both, torch.cat((first, val)))
    the_cache()  # is the only one


def truncate(file: str, bytes_left: int) -> None:
    with (the_cache() / file).open("r+b") as stream:
        stream.truncate(bytes_left)


@pytest.mark.parametrize(
    ("broken", "batches"),
    [
        pytest.param(lambda row: None, 3, id="between two batches"),
        pytest.param(lambda row: truncate("keys.bin", 17 * KEY_BYTES), 4, id="rows without keys"),
        pytest.param(lambda row: truncate("keys.bin", 16 * KEY_BYTES + 5), 4, id="half a key"),
        pytest.param(lambda row: truncate("features.bin", 16 * row + 7), 4, id="half a row"),
        pytest.param(lambda row: (the_cache() / "features.bin").unlink(), 6, id="no rows"),
        pytest.param(lambda row: (the_cache() / "keys.bin").unlink(), 6, id="no keys"),
    ],
)
def test_an_interrupted_pass_resumes_to_the_same_bits(tiny_pack, monkeypatch, batches_run, broken, batches):
    expected = computed(tiny_pack)
    row_bytes = 4 * expected.shape[1]
    shutil.rmtree(".checkpoints")
    real = feature_cache.FeatureCache.add
    added: list[int] = []

    def killed_in_the_fourth(self: FeatureCache, keys: list[bytes], values: Tensor) -> None:
        if len(added) == 3:
            raise Killed
        added.append(len(keys))
        real(self, keys, values)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(feature_cache.FeatureCache, "add", killed_in_the_fourth)
        compute(tiny_pack)
    assert (the_cache() / "keys.bin").stat().st_size == 3 * BATCH * KEY_BYTES
    broken(row_bytes)
    batches_run.clear()
    assert torch.equal(compute(tiny_pack), expected)
    assert len(batches_run) == batches
    assert (the_cache() / "features.bin").stat().st_size == 42 * row_bytes


CHANGES = {
    "added": ([*range(20)], [*range(42)], 22),
    "removed": ([*range(42)], [*range(3, 30, 2)], 0),
    "another order": ([*range(42)], [*range(41, -1, -1)], 0),
    "some of all": ([*range(30)], [40, 2, 31, *range(17, 5, -1), 33, 35], 4),
    "one twice": ([*range(9)], [3, 11, 3, 11, 0], 1),
}
"""Images of the first pass, images of the second, number that only the second has."""


@pytest.mark.parametrize("name", CHANGES)
def test_only_new_images_are_computed_and_every_row_is_as_from_an_empty_cache(tiny_pack, batches_run, name):
    first, second, new = CHANGES[name]
    everything = computed(tiny_pack)
    shutil.rmtree(".checkpoints")
    compute(with_images(tiny_pack, first))
    batches_run.clear()
    pack = with_images(tiny_pack, second)
    found = compute(pack)
    assert len(batches_run) == -(-new // BATCH)
    assert torch.equal(found, computed(pack))
    assert torch.equal(found, everything[second])


@pytest.mark.parametrize("batch", [BATCH, inference.BATCH_SIZE])
def test_the_other_images_of_a_batch_do_not_change_the_bits(tiny_pack, monkeypatch, batch):
    monkeypatch.setattr(features, "BATCH_SIZE", batch)
    everything = computed(tiny_pack)
    for chosen in ([41], [13, 2]):
        assert torch.equal(computed(with_images(tiny_pack, chosen)), everything[chosen])


def test_whatever_changes_the_features_has_a_cache_of_its_own(tiny_pack):
    net, other_head = network(), network()
    nn.init.zeros_(build.get_last_layer(other_head).weight)
    other_statistics = network()
    other_statistics.bn1.running_mean[0] += 1
    same = opened(tiny_pack, net).folder
    assert opened(tiny_pack, other_head).folder == same  # the head is not part of the features
    others = [
        opened(tiny_pack, network(seed=1)).folder,
        opened(tiny_pack, other_statistics).folder,
        opened(tiny_pack, image_size=64).folder,
        opened(tiny_pack, flip=True).folder,
        opened(tiny_pack, dtype=torch.bfloat16).folder,
        opened(tiny_pack, code="changed").folder,
    ]
    metadata = json.loads((tiny_pack / "pack.json").read_text())
    (tiny_pack / "pack.json").write_text(json.dumps(metadata | {"mean": [0.3, 0.2, 0.2]}))
    others.append(opened(tiny_pack).folder)
    assert len({same, *others}) == 8


def test_the_caches_used_last_are_kept_and_one_in_use_is_not_removed(project):
    caches = {name: FeatureCache({"name": name}, 2) for name in "abcdef"}

    def kept() -> set[str]:
        return {name for name, cache in caches.items() if cache.folder.exists()}

    with contextlib.ExitStack() as stack:
        in_use = stack.enter_context(caches["a"])
        in_use.add([b"k" * KEY_BYTES], torch.ones(1, 2))
        for name in "bcdbe":
            with caches[name]:
                pass
        assert kept() == {"a", "d", "b", "e"}
        assert in_use.rows([b"k" * KEY_BYTES]).read(0, 1).tolist() == [[1, 1]]
    with caches["f"]:
        assert kept() == {"b", "e", "f"} and len(kept()) == feature_cache.MAX_KEPT


def test_a_cache_that_is_removed_while_its_lock_is_waited_for_is_made_again(project, monkeypatch):
    """Another process takes the lock first, and removes the cache as an old one."""
    cache, real, removed = FeatureCache({"name": "a"}, 2), fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(shutil.rmtree(cache.folder))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with cache:
        cache.add([b"k" * KEY_BYTES], torch.ones(1, 2))
        with pytest.raises(BlockingIOError), (cache.folder / "lock").open() as other:
            real(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert removed and (cache.folder / "features.bin").stat().st_size == 8


def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error(tiny_pack):
    with opened(tiny_pack) as cache:
        train = split(tiny_pack, "train")
        rows = features.compute_features(cache, network(), train, 32, False, torch.float32, "")
        assert rows is not None and rows.read(40, 42).shape == (2, cache.width)
        truncate("features.bin", 41 * 4 * cache.width)
        with pytest.raises(EOFError, match="became shorter"):
            rows.read(40, 42)


def test_too_little_disk_is_reported_before_the_first_batch(tiny_pack, monkeypatch, batches_run):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(UserError, match="the features needs .* make room"):
        compute(tiny_pack)
    assert not batches_run
