"""Photos that were checked and packed before are not decoded again; the files are those of a fresh start."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import drawn
import numpy as np
import PIL
import pytest
import yaml
from clone import TINY, Clone
from params_file import write_params

import download
import pack
import split
from finegrain.core import paths
from finegrain.dataset import decoding, pack_writer
from finegrain.dataset.manifest import SPLITS

TOY = paths.Dataset("toy")
FILES = drawn.classes({"a": 8, "b": 6}) | {
    f"b/photo {n}.jpg": drawn.encode(drawn.pattern(100 + n, 300, 200), "JPEG") for n in range(2)
}
FILES |= {"b/bad.jpg": b"<html>"}
GOOD = len(FILES) - 1
PACKED = re.compile(r"(\d+) of \d+ photos were packed before")
CHECKED = re.compile(r"(\d+) of \d+ photos were checked before")
Outputs = dict[str, bytes]


@pytest.fixture
def run(project, capsys) -> Callable[..., tuple[Outputs, int, int]]:
    """Run the data stages; returns what they write, and how many photos were checked and packed before."""

    def stages(
        files: Mapping[str, bytes] = FILES, size: int = 32, fit: str = "squash", ratio: float = 0.2
    ) -> tuple[Outputs, int, int]:
        drawn.zip_file(project / "photos.zip", files)
        write_params(
            project,
            dataset={"name": "toy", "source": "archive", "path": "photos.zip"},
            split={"val_ratio": ratio, "test_ratio": 0.2, "max_bad_ratio": 0.5},
            pack={"image_size": size, "fit": fit},
        )
        capsys.readouterr()
        for stage in (download, split, pack):
            stage.main([])
        record_pack()
        printed = capsys.readouterr().err
        counts = [sum(map(int, pattern.findall(printed))) for pattern in (CHECKED, PACKED)]
        return outputs(), *counts

    return stages


def record_pack() -> None:
    """Put the pack into DVC's cache and dvc.lock, as DVC does after the stage."""
    members = [{"relpath": file.name, "md5": cache(file.read_bytes())} for file in TOY.pack.iterdir()]
    listing = cache(json.dumps(members).encode(), ".dir")
    outs = [{"path": str(TOY.pack), "md5": listing}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"pack": {"outs": outs}}}))


def cache(content: bytes, suffix: str = "") -> str:
    md5 = hashlib.md5(content).hexdigest() + suffix
    file = cached(md5)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return md5


def cached(md5: str) -> Path:
    return Path(".dvc/cache/files/md5", md5[:2], md5[2:])


def outputs() -> Outputs:
    reports = (TOY.manifest, TOY.rejected, TOY.near_duplicates)
    return {file.name: file.read_bytes() for file in (*TOY.pack.iterdir(), *reports)}


def from_scratch() -> Outputs:
    shutil.rmtree(".checkpoints")
    Path("dvc.lock").unlink()
    for stage in (split, pack):
        stage.main([])
    record_pack()
    return outputs()


CHANGES = {
    "nothing": (FILES, 0),
    "added": (FILES | drawn.classes({"c": 4}, 50), 4),
    "removed": (dict(list(FILES.items())[3:]), 0),
    "changed under its name": (FILES | {"a/001.png": drawn.png(70), "b/photo 1.jpg": drawn.png(71)}, 2),
    "renamed": ({path.replace("a/00", "a/x"): data for path, data in reversed(FILES.items())}, 0),
    "good now": (FILES | {"b/bad.jpg": drawn.png(72)}, 1),
}
"""The photos of the second run, and how many of them the first did not have."""


@pytest.mark.parametrize("name", CHANGES)
def test_only_new_photos_are_decoded_and_every_file_is_as_from_scratch(run, name):
    files, new = CHANGES[name]
    assert run()[1:] == (0, 0)
    found, checked, packed = run(files)
    good = sum(data != b"<html>" for data in files.values())
    assert checked == packed == good - new
    assert found == from_scratch()


def test_other_splits_take_every_photo_to_its_new_place(run):
    first = run()[0]
    found, checked, packed = run(ratio=0.4)
    assert checked == packed == GOOD and found["manifest.csv"] != first["manifest.csv"]
    assert found == from_scratch()


def test_other_sizes_and_fits_are_packed_from_scratch(run):
    run()
    for settings in ({"size": 33}, {"fit": "crop"}, {"size": 33, "fit": "letterbox"}):
        found, checked, packed = run(**settings)
        assert (checked, packed) == (GOOD, 0)
        assert found == from_scratch()
        assert run(**settings)[1:] == (GOOD, GOOD)


@pytest.mark.parametrize("what", ["code", "Pillow"])
def test_another_decoder_decodes_everything(run, monkeypatch, tmp_path, what):
    run()
    if what == "code":
        edited = tmp_path / "decoding.py"
        edited.write_text(Path(decoding.__file__).read_text() + "# edited\n")
        monkeypatch.setattr(decoding, "__file__", str(edited))
    else:
        monkeypatch.setattr(PIL, "__version__", "13.0")
    assert run()[1:] == (0, 0)
    assert run()[1:] == (GOOD, GOOD)


def test_bytes_that_the_manifest_does_not_name_are_not_found(run):
    """Without stage split in between, pack reads the photos that exist now."""
    run()
    changed = FILES | {"a/000.png": drawn.png(80)}
    drawn.zip_file(TOY.archive / "photos.zip", changed)
    pack.main([])
    images = np.concatenate([np.load(TOY.pack / f"{name}.npy") for name in SPLITS])
    expected = np.asarray(decoding.decode_square(changed["a/000.png"], 32))
    assert any(np.array_equal(image, expected) for image in images)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda file: file.write_bytes(file.read_bytes()[:-40]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"garbage"),
        Path.unlink,
    ],
    ids=["flipped", "cut", "empty", "garbage", "removed"],
)
@pytest.mark.parametrize("kept", ["the cache", "packs", "inspected"])
def test_what_is_kept_is_checked(run, kept, damage):
    first = run()[0]
    file = cached(hashlib.md5(first["train.npy"]).hexdigest())
    if kept != "the cache":
        (file,) = Path(".checkpoints", kept).iterdir()
    elif damage is flip:  # not the last row alone
        file.write_bytes(bytes(255 - byte for byte in file.read_bytes()))
    if (kept, damage) != (
        "inspected",
        flip,
    ):  # a flipped bit can turn a row into that of another photo, which nothing detects
        damage(file)
    assert run()[0] == first


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"[1]", b"{}", b"stages: {pack: {outs: [{path: data/toy/pack}]}}"]
)
@pytest.mark.parametrize("name", ["dvc.lock", "listing", "pack.json"])
def test_damaged_records_of_dvc_are_as_none(run, name, content):
    first = run()[0]
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    files = {
        "dvc.lock": Path("dvc.lock"),
        "listing": cached(lock["stages"]["pack"]["outs"][0]["md5"]),
        "pack.json": cached(hashlib.md5(first["pack.json"]).hexdigest()),
    }
    files[name].write_bytes(content)
    assert run() == (first, GOOD, 0)


def test_a_pack_of_other_pixels_under_the_same_manifest_is_not_taken(run):
    """A pack of another branch, which had another decoder."""
    first = run()[0]
    for name in SPLITS:
        np.save(TOY.pack / f"{name}.npy", 255 - np.load(TOY.pack / f"{name}.npy"))
    record_pack()
    assert run() == (first, GOOD, 0)


@pytest.mark.parametrize("name", ["config", "config.local"])
def test_a_cache_elsewhere_is_found(run, name):
    run()
    Path(".dvc/cache").rename("shared cache")
    assert run()[1:] == (GOOD, 0)
    shutil.rmtree(".dvc/cache")
    Path(".dvc", name).write_text("[core]\n    analytics = false\n[cache]\n    dir = ../shared cache\n")
    pack.main([])
    record_pack()
    shutil.copytree(".dvc/cache", "shared cache", dirs_exist_ok=True)
    assert run()[1:] == (GOOD, GOOD)


def test_little_is_kept(run):
    for size in range(32, 34 + pack_writer.MAX_KEPT):
        run(size=size)
    packs, inspected = (list(Path(".checkpoints", name).iterdir()) for name in ("packs", "inspected"))
    assert len(packs) == pack_writer.MAX_KEPT and len(inspected) == 1
    assert max(file.stat().st_size for file in packs) < 200 + 60 * GOOD


def test_a_disk_on_which_nothing_can_be_kept_works_as_ever(run, monkeypatch):
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    first = run()[0]
    shutil.rmtree(".checkpoints")
    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    assert run() == (first, 0, 0) and run() == (first, 0, 0)


@pytest.mark.slow
def test_after_dvc_has_removed_the_pack_its_photos_are_known(tmp_path):
    clone = Clone(tmp_path / "clone")
    drawn.tree(tmp_path / "photos", drawn.classes({"ant": 12, "bee": 12}))
    local = {"name": "sample", "source": "archive", "path": "../photos"}
    write_params(clone.folder, **TINY | {"dataset": local})
    clone("dvc repro pack")
    drawn.tree(tmp_path / "photos", {"bee/new.png": drawn.png(99)})
    printed = clone("dvc repro pack")
    assert CHECKED.findall(printed) == PACKED.findall(printed) == ["24"]

    def recorded() -> list[str]:
        stages = yaml.safe_load((clone.folder / "dvc.lock").read_text())["stages"]
        return [out["md5"] for stage in ("split", "pack") for out in stages[stage]["outs"]]

    found = recorded()
    shutil.rmtree(clone.folder / ".checkpoints")
    printed = clone("dvc repro -f -s split pack")
    assert not PACKED.findall(printed) and recorded() == found
