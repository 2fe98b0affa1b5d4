"""Whatever a file contains, reading it succeeds or raises UserError, never another exception."""

import io
import json
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import drawn
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pipeline import ROOT

from finegrain.config import params
from finegrain.core.errors import UserError
from finegrain.dataset import decoding, manifest
from finegrain.models import storage
from finegrain.sources import archive

PHOTOS = {"train/cat/1.png": drawn.png(1), "train/dog/2.png": drawn.png(2), "test/dog/3.png": drawn.png(3)}
ARCHIVES = {
    "a.zip": drawn.zip_file,
    "a.tar": drawn.tar_file,
    "a.tar.gz": drawn.tar_file,
}
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


def archive_bytes(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return ARCHIVES[name](Path(folder, name), PHOTOS).read_bytes()


SEEDS = {name: archive_bytes(name) for name in ARCHIVES}
DAMAGE = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "repeat"]), st.floats(0, 1), st.binary(max_size=8)),
    min_size=1,
    max_size=6,
)


def damaged(data: bytes, damage: list[tuple[str, float, bytes]]) -> bytes:
    """The file with bytes changed, removed, inserted or repeated."""
    for kind, share, content in damage:
        at = int(share * len(data))
        if kind == "flip":
            data = data[:at] + content + data[at + len(content) :]
        elif kind == "cut":
            data = data[:at] + data[at + 1 + len(content) * 7 :]
        elif kind == "insert":
            data = data[:at] + content + data[at:]
        else:
            data = data[:at] + data[max(0, at - 60) :]
    return data


def read_or_user_error(read: Callable[[], object]) -> object:
    try:
        return read()
    except UserError as error:
        assert str(error)
        return None


@given(st.sampled_from(list(SEEDS)), DAMAGE)
def test_a_damaged_archive(name, damage):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(damaged(SEEDS[name], damage))

        def read():
            with archive.ArchiveReader(Path(folder)) as reader:
                found = [(image.path, data) for image, data in reader.read()]
                assert len(found) == len(reader)

        read_or_user_error(read)
        assert [file.name for file in Path(folder).iterdir()] == [name]


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=8))
def test_an_archive_of_any_names(names):
    """Every listed image is read with its own bytes and has a path inside the archive."""
    files = {f"{a}/{b}.png": drawn.png(number) for number, (a, b) in enumerate(names)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            drawn.zip_file(Path(folder, "a.zip"), files)
        except (ValueError, UnicodeEncodeError):
            return  # zipfile cannot write such names

        def read():
            with archive.ArchiveReader(Path(folder)) as reader:
                return [(image.path, image.class_name, data) for image, data in reader.read()]

        for path, class_name, data in read_or_user_error(read) or []:
            assert data in files.values() and ".." not in path.split("/") and not path.startswith("/")
            assert class_name in [unicodedata.normalize("NFC", part) for part in path.split("/")]


@given(DAMAGE)
def test_a_damaged_manifest(damage):
    rows = [",".join(manifest.COLUMNS), 'cat/1.png,a.zip,cat,train,48,32,99,"0,0",00ff00ff00ff00ff']
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "manifest.csv")
        file.write_bytes(damaged("\n".join(rows * 3).encode(), damage))
        read_or_user_error(lambda: list(manifest.read_manifest(file)))


@given(DAMAGE)
def test_a_damaged_params_file(damage):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "params.yaml")
        file.write_bytes(damaged((ROOT / "params.yaml").read_bytes(), damage))
        read_or_user_error(lambda: params.load_params(file))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
KNOWN = yaml.safe_load((ROOT / "params.yaml").read_text())


@given(st.sampled_from(sorted(KNOWN)), VALUES)
def test_any_value_of_any_parameter(key, value):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "params.yaml")
        file.write_text(yaml.safe_dump({**KNOWN, key: value}))
        read_or_user_error(lambda: params.load_params(file))


IMAGES = {
    kind: drawn.encode(drawn.pattern(1), kind)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
}


@given(st.sampled_from(list(IMAGES)), DAMAGE, st.sampled_from([None, 32]))
def test_a_damaged_image(kind, damage, target_size):
    try:
        assert decoding.decode(damaged(IMAGES[kind], damage), target_size).mode == "RGB"
    except decoding.BadImage as error:
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def sidecar() -> dict[str, object]:
    return {
        "format": storage.FORMAT, "sha256": "0" * 64, "model": "resnet18", "classes": ["a", "b"],
        "image_size": 32,
        "pack_image_size": 32, "pack_fit": "crop",
        "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "refit": False, "temperature": 1.0,
        "unknown_below": 0.4,
        "recipe": {"head": {}},
    }  # fmt: skip


@given(st.data())
def test_any_sidecar(sidecar, data):
    key = data.draw(st.sampled_from(sorted(sidecar)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "m.json")
        file.write_text(json.dumps({**sidecar, key: data.draw(VALUES)}))
        read_or_user_error(lambda: storage.load_model(Path(folder, "m.safetensors"), file))


def test_some_damage_reaches_the_readers():
    """If every damaged archive failed at its first bytes, the tests above would show little."""
    damage = [("flip", 0.02, b"x")]
    damaged_zip = damaged(SEEDS["a.zip"], damage)
    assert len(zipfile.ZipFile(io.BytesIO(damaged_zip)).namelist()) == len(PHOTOS)
