"""store_local copies archives and turns folders into reproducible zips."""

import hashlib
import os
import shutil
import zipfile

import drawn
import pytest
from toy_data import FILES, contents, images

from finegrain.core.errors import UserError
from finegrain.sources import archive


def test_archives_are_copied_unchanged(tmp_path):
    one = drawn.zip_file(tmp_path / "in" / "one.zip", FILES)
    two = drawn.tar_file(tmp_path / "in" / "two.tar.gz", {"dog/2.jpg": b"d2"})
    archive.store_local([str(one), str(two)], tmp_path / "out")
    assert (tmp_path / "out" / "one.zip").read_bytes() == one.read_bytes()
    assert (tmp_path / "out" / "two.tar.gz").read_bytes() == two.read_bytes()
    with archive.ArchiveReader(tmp_path / "out") as reader:
        assert [image.part for image in images(reader)] == ["one.zip"] * 3 + ["two.tar.gz"]


def test_a_folder_gives_the_same_zip_whatever_its_file_times_and_order(tmp_path):
    digests = []
    many = {f"{name}/{n}.jpg": bytes(n) for name in ("cat", "dog") for n in range(1, 30)}
    for n, files in enumerate([many, dict(reversed(many.items()))]):
        folder = drawn.tree(
            tmp_path / str(n) / "photos", {**files, ".DS_Store": b"", "cat/notes.txt": bytes(n)}
        )
        os.utime(folder / "cat/1.jpg", (n * 1e9, n * 1e9))
        archive.store_local(str(folder), tmp_path / f"out{n}")
        digests.append(hashlib.sha256((tmp_path / f"out{n}" / "photos.zip").read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    members = zipfile.ZipFile(tmp_path / "out0/photos.zip").infolist()
    assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}  # nor on the clock
    with archive.ArchiveReader(tmp_path / "out0") as reader:
        assert contents(reader) == sorted(many.items())


def test_nothing_is_copied_if_a_source_is_rejected(tmp_path, monkeypatch):
    file = drawn.zip_file(tmp_path / "in" / "one.zip", FILES)
    twin = drawn.tree(tmp_path / "in" / "one", FILES)
    text = tmp_path / "notes.txt"
    text.write_text("-")
    (tmp_path / "empty").mkdir()
    single = drawn.tree(tmp_path / "single", {"cat/1.jpg": b""})
    linked = drawn.tree(tmp_path / "linked", FILES)
    (linked / "bird").symlink_to(twin / "cat")
    for source, message in [
        (str(tmp_path / "none.zip"), "none.zip: not found"),
        (str(text), "notes.txt: must be a folder or an archive"),
        (str(tmp_path / "empty"), "no images"),
        (str(single), "in no folder|in one folder, cat"),
        (str(linked), "bird: is a link to a folder"),
        ([str(file), str(twin)], "have the same name"),
    ]:
        with pytest.raises(UserError, match=message):
            archive.store_local(source, tmp_path / "out")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(UserError, match="0.00 GB are free"):
        archive.store_local(str(file), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_whose_images_would_vanish_or_change_class_is_rejected(tmp_path):
    """Links to a disk that is not mounted; a backslash, which becomes a slash in a zip."""
    gone = drawn.tree(tmp_path / "gone", FILES)
    (gone / "dog" / "2.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    odd = drawn.tree(tmp_path / "odd", {**FILES, "AC\\DC/1.jpg": b"a"})
    for folder, message in ((gone, "dog/2.jpg: is a link"), (odd, r"AC.DC/1.jpg: has a backslash")):
        with pytest.raises(UserError, match=message):
            archive.store_local(str(folder), tmp_path / "out")


def test_a_hidden_folder_s_zip_is_not_hidden(tmp_path):
    archive.store_local(str(drawn.tree(tmp_path / ".pets", FILES)), tmp_path / "out")
    assert [file["name"] for file in archive.describe(tmp_path / "out")["files"]] == ["pets.zip"]
