"""What stage download keeps of local archives and folders."""

import hashlib
import os
import shutil

import drawn
import pytest
from test_archive import TWO, contents, images

from finegrain.core.errors import UserError
from finegrain.sources import archive


def test_store_copies_archives_as_they_are(tmp_path):
    one = drawn.zip_file(tmp_path / "in" / "one.zip", TWO)
    two = drawn.tar_file(tmp_path / "in" / "two.tar.gz", {"dog/2.jpg": b"d2"})
    archive.store_local([str(one), str(two)], tmp_path / "out")
    assert (tmp_path / "out" / "one.zip").read_bytes() == one.read_bytes()
    assert (tmp_path / "out" / "two.tar.gz").read_bytes() == two.read_bytes()
    with archive.ArchiveReader(tmp_path / "out") as reader:
        assert [image.part for image in images(reader)] == ["one.zip"] * 3 + ["two.tar.gz"]


def test_a_folder_becomes_the_same_zip_whenever_and_in_whatever_order_it_was_written(tmp_path):
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
    with archive.ArchiveReader(tmp_path / "out0") as reader:
        assert contents(reader) == sorted(many.items())


def test_store_refuses_before_it_copies(tmp_path, monkeypatch):
    file = drawn.zip_file(tmp_path / "in" / "one.zip", TWO)
    twin = drawn.tree(tmp_path / "in" / "one", TWO)
    text = tmp_path / "notes.txt"
    text.write_text("-")
    (tmp_path / "empty").mkdir()
    single = drawn.tree(tmp_path / "single", {"cat/1.jpg": b""})
    linked = drawn.tree(tmp_path / "linked", TWO)
    (linked / "bird").symlink_to(twin / "cat")
    for source, message in [
        (str(tmp_path / "none.zip"), "none.zip: not found"),
        (str(text), "not an archive"),
        (str(tmp_path / "empty"), "holds no images"),
        (str(single), "all images lie in one folder"),
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


def test_a_folder_with_images_that_would_vanish_or_change_their_class_is_refused(tmp_path):
    """Links of a disk that is not mounted; a backslash, which is a slash once it is in a zip."""
    gone = drawn.tree(tmp_path / "gone", TWO)
    (gone / "dog" / "2.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    odd = drawn.tree(tmp_path / "odd", {**TWO, "AC\\DC/1.jpg": b"a"})
    for folder, message in ((gone, "dog/2.jpg: is a link to a file that is not there"), (odd, "a backslash")):
        with pytest.raises(UserError, match=message):
            archive.store_local(str(folder), tmp_path / "out")


def test_a_hidden_folder_s_zip_is_not_hidden(tmp_path):
    archive.store_local(str(drawn.tree(tmp_path / ".pets", TWO)), tmp_path / "out")
    assert [file["name"] for file in archive.describe(tmp_path / "out")["files"]] == ["pets.zip"]
