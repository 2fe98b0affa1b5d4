"""ZipArchive, which reads the directory piece by piece, gives what zipfile gives."""

import random
import zipfile
from pathlib import Path

import pytest

from finegrain.core.errors import UserError
from finegrain.sources import zip_file
from finegrain.sources.layout import ArchiveImage

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def write(file: Path, images: int, comment: bytes = b"") -> Path:
    """A zip of images, other files and folders, its directory in a different order from its bytes."""
    rng = random.Random(0)
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = comment
        archive.mkdir("a")
        for number in range(images):
            data = rng.randbytes(rng.randrange(300))
            archive.writestr(f"{'ab'[number % 2]}/{number}.jpg", data, METHODS[number % 4])
            archive.writestr(f"{number}.txt", b"")
        rng.shuffle(archive.filelist)
    return file


def by_zipfile(file: Path) -> list[tuple[str, bytes]]:
    """Path and bytes of the images, in the order of their bytes."""
    with zipfile.ZipFile(file) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        return [(info.filename, archive.read(info)) for info in infos if info.filename.endswith(".jpg")]


def by_zip_archive(file: Path) -> list[tuple[str, bytes]]:
    part = zip_file.ZipArchive(file)
    listed = sorted(part.members(), key=lambda member: member.order)
    images = [(ArchiveImage(n, member.path, "", None, ""), member.entry) for n, member in enumerate(listed)]
    return [(image.path, data) for image, data in part.contents(images)]


@pytest.mark.parametrize("images", [0, 1, 127, 128, 129, 600])  # two entries an image, 256 entries a window
def test_images_are_those_that_zipfile_reads(tmp_path, images):
    file = write(tmp_path / "a.zip", images)
    assert by_zip_archive(file) == by_zipfile(file)


def test_a_comment_and_bytes_before_the_archive_are_allowed(tmp_path):
    file = write(tmp_path / "a.zip", 300, comment=b"PK\5 a comment " * 20)
    file.write_bytes(b"#!/bin/sh\n" * 99 + file.read_bytes())
    assert len(by_zip_archive(file)) == 300
    assert by_zip_archive(file) == by_zipfile(file)


@pytest.mark.parametrize("before", [b"", b"before"])
def test_zip64_is_read(tmp_path, monkeypatch, before):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)  # otherwise it begins at 2 GB
    file = write(tmp_path / "a.zip", 300)
    monkeypatch.undo()
    file.write_bytes(before + file.read_bytes())
    assert b"PK\6\6" in file.read_bytes() and b"\1\0\10\0" in file.read_bytes()  # end record, long offsets
    assert by_zip_archive(file) == by_zipfile(file)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"PK\1\2", b"PK\1\3"),  # an entry of the directory
        (b"PK\5\6", b"PK\5\7"),  # its end
        (b"PK\5\6" + bytes(6), b"PK\5\6" + bytes(6)),
    ],
)
def test_a_damaged_directory_is_rejected(tmp_path, old, new):
    file = write(tmp_path / "a.zip", 3)
    data = bytearray(file.read_bytes())
    data = data.replace(old, new)
    if old == new:
        data[-10:-6] = (len(data) * 2).to_bytes(4, "little")  # the directory's size
    file.write_bytes(data)
    with pytest.raises(UserError, match="a.zip: not a readable zip"):
        by_zip_archive(file)


def test_a_directory_whose_last_entry_is_too_long_is_rejected(tmp_path):
    file = write(tmp_path / "a.zip", 3)
    data = bytearray(file.read_bytes())
    data[data.rindex(b"PK\1\2") + 32] = 1  # a comment of one byte
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"not a readable zip \(Truncated"):
        by_zip_archive(file)
