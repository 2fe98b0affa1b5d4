"""Stages download, split and pack on a toy dataset: their files, the arrays, and what stops them."""

import json
import shutil
from pathlib import Path
from typing import get_args

import drawn
import numpy as np
import pytest
from params_file import write_params

import download
import pack
import split
from finegrain.config.params import PackParams
from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.dataset import decoding, manifest, pack_writer
from finegrain.sources import archive

FILES = drawn.classes({"b": 6, "a": 5, "C": 7}) | {
    f"a/photo {n}.jpg": drawn.encode(drawn.pattern(100 + n, 300, 200), "JPEG") for n in range(3)
}


def configure(fit="squash", **dataset):
    write_params(
        Path(),
        dataset={"name": "toy", "source": "archive", "path": "photos.zip"} | dataset,
        split={"val_ratio": 0.2, "test_ratio": 0.2},
        pack={"image_size": 32, "fit": fit},
    )


@pytest.fixture
def packed(project):
    """A project folder in which the three stages have run."""
    drawn.zip_file(project / "photos.zip", FILES)
    configure()
    for stage in (download, split, pack):
        stage.main([])
    return project / "data" / "toy" / "pack"


@pytest.mark.parametrize("fit", get_args(decoding.Fit))
def test_arrays_equal_decoding_each_image_by_itself(packed, fit):
    if fit != "squash":
        configure(fit)
        pack.main([])
    table = list(manifest.read_manifest(Path("data/toy/manifest.csv")))
    metadata = json.loads((packed / "pack.json").read_text())
    assert metadata["classes"] == ["C", "a", "b"] and metadata["fit"] == fit
    for name in manifest.SPLITS:
        rows = [row for row in table if row.split == name]
        images, labels = np.load(packed / f"{name}.npy"), np.load(packed / f"{name}_labels.npy")
        assert images.dtype == np.uint8 and images.shape == (len(rows), 32, 32, 3)
        assert labels.dtype == np.int64 and metadata["counts"][name] == len(rows)
        assert [metadata["classes"][label] for label in labels] == [row.class_name for row in rows]
        expected = [np.asarray(decoding.decode_square(FILES[row.path], 32, fit)) for row in rows]
        assert np.array_equal(images, np.stack(expected))


def test_mean_and_standard_deviation_are_those_of_train(packed):
    metadata = json.loads((packed / "pack.json").read_text())
    train = np.load(packed / "train.npy") / 255
    np.testing.assert_allclose(metadata["mean"], train.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(metadata["std"], train.std(axis=(0, 1, 2)), rtol=1e-12)
    assert metadata["manifest_sha256"] == file_io.sha256(Path("data/toy/manifest.csv"))
    assert metadata["image_size"] == 32


def test_the_stages_write_exactly_these_files(packed):
    shutil.rmtree(".checkpoints")
    files = {str(f) for f in Path(".").rglob("*") if f.is_file()}
    assert files == {
        "params.yaml", "photos.zip", "data/toy/archive/photos.zip", "data/toy/manifest.csv",
        "data/toy/source.json", "reports/toy/source.json", "reports/toy/split.json",
        "plots/toy/data/class_balance.csv",
        "reports/toy/rejected.csv", "reports/toy/near_duplicates.csv", "data/toy/pack/pack.json",
        *(f"data/toy/pack/{name}{end}.npy" for name in manifest.SPLITS for end in ("", "_labels")),
    }  # fmt: skip
    source = json.loads(Path("reports/toy/source.json").read_text())
    assert source["source"] == "archive" and source["files"][0]["name"] == "photos.zip"
    assert source["sha256"] == file_io.sha256(Path("photos.zip"))
    summary = json.loads(Path("reports/toy/split.json").read_text())
    assert summary["images"] == {"train": 13, "val": 4, "test": 4} and summary["classes"] == 3
    assert summary["sha256"] == file_io.sha256(Path("data/toy/manifest.csv"))
    assert Path("reports/toy/near_duplicates.csv").read_text() == "test_path,other_path,bits\n"
    assert Path("plots/toy/data/class_balance.csv").read_text().startswith("class,split,images\nC,train,5\n")


def test_a_tar_with_the_same_images_in_another_order_gives_the_same_arrays(packed):
    before = {file.name: file.read_bytes() for file in packed.glob("*.npy")}
    drawn.tar_file(Path("photos.tar.gz"), dict(reversed(FILES.items())))
    configure(path="photos.tar.gz")
    for stage in (download, split, pack):
        stage.main([])
    assert not Path("data/toy/archive/photos.zip").exists()
    assert {file.name: file.read_bytes() for file in packed.glob("*.npy")} == before


def test_a_wrong_sha256_stops_the_download_and_leaves_nothing(project):
    drawn.zip_file(project / "photos.zip", FILES)
    configure(sha256="0" * 64)
    with pytest.raises(UserError, match=f"{'0' * 64}, but .* has {file_io.sha256(Path('photos.zip'))}"):
        download.main([])
    assert list(Path("data/toy").iterdir()) == [] and not Path("reports").exists()
    configure(sha256=file_io.sha256(Path("photos.zip")))
    download.main([])


def test_too_many_bad_images_stop_the_split_with_the_report_written(project):
    drawn.zip_file(project / "photos.zip", FILES | {"a/bad.jpg": b"<html>"})
    configure()
    download.main([])
    with pytest.raises(UserError, match=r"1 of 22 images \(4.55%\).*reports/toy/rejected.csv"):
        split.main([])
    listed = Path("reports/toy/rejected.csv").read_text()
    assert listed == "path,reason\na/bad.jpg,not an image: a web page or XML\n"
    assert not Path("data/toy/manifest.csv").exists()


def test_an_archive_that_does_not_match_the_manifest_is_rejected_and_the_old_pack_stays(packed):
    before = (packed / "train.npy").read_bytes()
    gone, bad, *_ = (row.path for row in manifest.read_manifest(Path("data/toy/manifest.csv")))
    for content, message in [
        ({path: data for path, data in FILES.items() if path != gone}, f"{gone}: in the manifest"),
        (FILES | {bad: b"<html>"}, f"{bad}: not an image"),
    ]:
        drawn.zip_file(Path("data/toy/archive/photos.zip"), content)
        with pytest.raises(UserError, match=message):
            pack.main([])
        assert (packed / "train.npy").read_bytes() == before
        assert [path.name for path in packed.parent.iterdir() if path.name.startswith(".")] == []


def test_a_full_disk_is_reported_before_packing(packed, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with (
        archive.ArchiveReader(Path("data/toy/archive")) as reader,
        pytest.raises(UserError, match="GB are missing"),
    ):
        pack_writer.write_pack(reader, Path("data/toy/manifest.csv"), packed, PackParams(image_size=512))
