"""LenientReader reads a damaged archive as far as possible and reports what is wrong with the rest."""

import os
import stat
import tarfile
import zipfile

import drawn
import pytest
from toy_data import WRITERS

from finegrain.core.errors import UserError
from finegrain.serving.lenient_reader import LenientReader
from finegrain.sources import archive


def _damage(file, path):
    """Change a byte of a member's stored content."""
    with zipfile.ZipFile(file) as packed:
        info = packed.getinfo(path)
    at = info.header_offset + 30 + len(path) + info.compress_size // 2
    raw = bytearray(file.read_bytes())
    raw[at] ^= 0xFF
    file.write_bytes(raw)


def _flag(file, path, offset, bits):
    """Set bits of a member's directory entry."""
    raw = bytearray(file.read_bytes())
    at = raw.rindex(path.encode()) - 46
    assert raw[at : at + 4] == b"PK\1\2"
    raw[at + offset] |= bits
    file.write_bytes(raw)


def test_a_damaged_zip_gives_the_good_images_and_a_reason_for_each_other(tmp_path):
    names = ["crc.jpg", "cut.jpg", "good.jpg", "large.jpg", "link.jpg", "locked.jpg", "odd.jpg"]
    file = drawn.zip_file(tmp_path / "a.zip", {name: name.encode() * 9 for name in names})
    _damage(file, "crc.jpg")
    _flag(file, "cut.jpg", 23, 0x04)  # 64 MB compressed: more than the file contains
    _flag(file, "cut.jpg", 27, 0x04)
    _flag(file, "large.jpg", 27, 0x20)
    _flag(file, "link.jpg", 41, stat.S_IFLNK >> 8)
    _flag(file, "locked.jpg", 8, 1)
    _flag(file, "odd.jpg", 10, 0x40)
    reader = LenientReader(file)
    assert reader.paths == names and reader.damage is None
    found = dict(zip(names, reader.contents(), strict=True))
    assert found.pop("good.jpg") == b"good.jpg" * 9
    reasons = {name: bad.reason for name, bad in found.items()}
    assert reasons.pop("crc.jpg").startswith("is damaged (Bad CRC-32")
    assert reasons.pop("cut.jpg").startswith("is damaged (")
    assert reasons.pop("large.jpg").startswith("has 537 MB")
    assert reasons == {
        "link.jpg": "is a link",
        "locked.jpg": "is encrypted",
        "odd.jpg": "is compressed by an unknown method",
    }
    with pytest.raises(UserError, match="a.zip: large.jpg has 537 MB; .* 200 MB"):
        archive.ArchiveReader(tmp_path)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_truncated_tar_gives_the_images_before_the_end(tmp_path, name):
    noise = {f"{n}.jpg": os.urandom(50_000) for n in range(20)}
    file = WRITERS[name](tmp_path / name, noise)
    file.write_bytes(file.read_bytes()[:526_000])  # within the eleventh image
    reader = LenientReader(file)
    assert reader.damage.startswith("not a readable tar (") and str(file) not in reader.damage
    found = list(reader.contents())
    assert reader.paths == [f"{n}.jpg" for n in range(11)]
    assert found[:10] == list(noise.values())[:10]
    assert found[10].reason.startswith("is damaged (")
    with pytest.raises(UserError, match="not a readable tar"):
        archive.ArchiveReader(tmp_path)


def test_links_in_a_tar_are_skipped_or_reported_if_named_like_an_image(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("1.jpg", "2.jpg", "latest", "3.jpg"):
            member = tarfile.TarInfo(name)
            if name in ("2.jpg", "latest"):
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    reader = LenientReader(tmp_path / "a.tar")
    assert reader.paths == ["1.jpg", "2.jpg", "3.jpg"] and reader.damage is None
    first, link, last = reader.contents()
    assert first == last == b"" and link.reason == "is a link or device"


@pytest.mark.parametrize("name", WRITERS)
def test_an_archive_of_which_nothing_can_be_read_is_rejected(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>")
    with pytest.raises(UserError, match=f"{name}: not a readable"):
        LenientReader(tmp_path / name)
