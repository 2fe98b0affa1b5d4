"""CIFAR-100 gives the same zip from every package; other pickles are never opened."""

import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from typing import Any

import drawn
import numpy as np
import pytest
from PIL import Image

from finegrain.core.errors import UserError
from finegrain.sources import archive, cifar100

LABELS = ["apple", "bear"]
PIXELS = {
    split: np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)
    for seed, (split, n) in enumerate({"train": 6, "test": 4}.items())
}


@pytest.fixture
def pickles(monkeypatch):
    """A small replacement for the three files, with its MD5s in place of the real ones."""
    content: dict[str, Any] = {"meta": {"fine_label_names": LABELS, "coarse_label_names": ["all"]}}
    for split, pixels in PIXELS.items():
        content[split] = {"data": pixels, "fine_labels": [i % 2 for i in range(len(pixels))]}
    files = {name: pickle.dumps(value, protocol=4) for name, value in content.items()}
    trust(monkeypatch, files)
    return files


def trust(monkeypatch, files):
    monkeypatch.setattr(
        cifar100, "MD5", {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    )


@pytest.mark.parametrize("top", ["", "cifar-100-python/"])
@pytest.mark.parametrize("kind", ["folder", "c.zip", "c.tar.gz"])
def test_every_package_gives_the_same_images(pickles, tmp_path, kind, top):
    files = {f"{top}{name}": data for name, data in pickles.items()} | {f"{top}file.txt~": b""}
    source = tmp_path / kind
    write = {"folder": drawn.tree, "c.zip": drawn.zip_file, "c.tar.gz": drawn.tar_file}[kind]
    write(source, files)
    target = cifar100.convert(source, tmp_path / "archive")
    assert [file.name for file in (tmp_path / "archive").iterdir()] == ["cifar100.zip"]
    with archive.ArchiveReader(target.parent) as reader:
        found = {i.path: (i, np.asarray(Image.open(io.BytesIO(d)))) for i, d in reader.read()}
    assert len(found) == 10
    for split, pixels in PIXELS.items():
        for n, row in enumerate(pixels):
            image, decoded = found[f"{split}/{LABELS[n % 2]}/{n + 1:05d}.png"]
            assert (image.split, image.class_name) == (split, LABELS[n % 2])
            assert np.array_equal(
                decoded, np.stack([row[:1024], row[1024:2048], row[2048:]], 1).reshape(32, 32, 3)
            )


def test_the_zip_is_the_same_each_time(pickles, tmp_path):
    source = drawn.zip_file(tmp_path / "c.zip", pickles)
    first, second = (cifar100.convert(source, tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second
    assert zipfile.ZipFile(io.BytesIO(first)).infolist()[0].compress_type == zipfile.ZIP_STORED


@pytest.mark.parametrize("encoding", ["python 2", "python 3"])
def test_a_numpy_array_pickled_by_python_2_is_read(encoding):
    raw = pickle.dumps({"data": PIXELS["train"]}, protocol=4)
    if encoding == "python 2":  # the module that numpy 1 wrote into its pickles
        raw = pickle.dumps({"data": PIXELS["train"]}, protocol=3).replace(b"numpy._core", b"numpy.core")
    assert np.array_equal(cifar100._unpickle(raw)["data"], PIXELS["train"])


def test_a_pickle_with_another_md5_is_never_loaded(tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    files = dict.fromkeys(cifar100.MD5, pickle.dumps(Bomb()))
    source = drawn.tar_file(tmp_path / "c.tar.gz", files)
    with pytest.raises(UserError, match="train has MD5 .* 16019d7e3df5f24257cddd939b257f8d"):
        cifar100.convert(source, tmp_path / "out")
    trust(monkeypatch, files)
    with pytest.raises(UserError, match="posix.mkdir"):
        cifar100.convert(source, tmp_path / "out")
    assert not (tmp_path / "exploded").exists()


def test_a_source_that_is_not_cifar100_is_rejected(pickles, tmp_path):
    (tmp_path / "broken.tar.gz").write_bytes(b"<html>")
    (tmp_path / "empty").mkdir()
    drawn.zip_file(tmp_path / "part.zip", {"train": pickles["train"]})
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        member = tarfile.TarInfo("train")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    for name, message in [
        ("none.zip", "not found"),
        ("broken.tar.gz", "not a readable archive"),
        ("empty", "meta, test, train"),
        ("part.zip", "contain meta, test;"),
        ("link.tar", "meta, test, train"),
    ]:
        with pytest.raises(UserError, match=message):
            cifar100.convert(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
