"""Names inside archives that are not UTF-8, and how one encoding is chosen for all of an archive."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import drawn
import pytest
from toy_data import contents, images

from finegrain.core.errors import UserError
from finegrain.core.file_io import NameEncoding
from finegrain.sources import archive, index


def zip_of(file: Path, names: list[bytes], flagged: bool = False, extra: bytes = b"") -> Path:
    """A zip of members with these raw names, each holding its own name.

    Args:
        flagged: set the flag for UTF-8.
        extra: extra field of each member.
    """
    members, directory = b"", b""
    for name in names:
        rest = struct.pack(
            "<5H3L2H", 20, 0x800 * flagged, 0, 0, 33, zlib.crc32(name), len(name), len(name), len(name),
            len(extra),
        )  # fmt: skip
        directory += b"PK\1\2\x14\0" + rest + struct.pack("<3H2L", 0, 0, 0, 0, len(members)) + name + extra
        members += b"PK\3\4" + rest + name + extra + name
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(names), len(names), len(directory), len(members), 0)
    file.write_bytes(members + directory + end)
    return file


def tar_of(file: Path, names: list[bytes], kind: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(file, "w", format=kind, encoding="utf-8") as packed:
        for name in names:
            member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            member.size = len(name)
            packed.addfile(member, io.BytesIO(name))
    return file


def classes_of(folder: Path) -> list[str]:
    """The classes; each image must hold its raw name and be found again by its path."""
    with archive.ArchiveReader(folder) as reader:
        for image, _ in reader.read():
            assert reader.index_of(image.path) == image.index
            assert image.path.encode("utf-8").decode("utf-8") == image.path
        return reader.classes


def names_of(encoding: str, *classes: str) -> list[bytes]:
    return [f"{name}/{number}.jpg".encode(encoding) for name in classes for number in (1, 2)]


CLASSES = [
    ("gbk", ("狗", "猫"), "Chinese"),  # the second one is valid UTF-8
    ("gbk", ("鹦鹉", "乗", "猕猴桃"), "Chinese"),  # the last byte of the second is a backslash
    ("cp932", ("カメラ", "ナイト"), "Shift-JIS"),  # letters only in DOS's code page too
    ("cp932", ("ソニー", "犬", "表"), "Shift-JIS"),  # first and last have a backslash
    ("cp437", ("Größe", "Mädchen", "Möwe"), "437"),
    ("cp437", ("crème brûlée", "été"), "437"),
]


@pytest.mark.parametrize(("encoding", "classes", "reported"), CLASSES)
def test_one_encoding_is_chosen_for_all_names_of_a_zip_or_tar(tmp_path, capfd, encoding, classes, reported):
    names = names_of(encoding, *classes)
    for kind in ("zip", "flagged", "gnu", "pax"):
        folder = tmp_path / kind
        folder.mkdir()
        if kind in ("zip", "flagged"):
            zip_of(folder / "a.zip", names)
        else:
            tar_of(folder / "a.tar", names, tarfile.GNU_FORMAT if kind == "gnu" else tarfile.PAX_FORMAT)
        assert classes_of(folder) == sorted(classes)
        with archive.ArchiveReader(folder) as reader:
            assert sorted(data for _, data in contents(reader)) == sorted(names)
        said = capfd.readouterr().err
        assert (
            f" {len([n for n in names if not _is_utf8(n)])} names are not UTF-8" in said and reported in said
        )


def _is_utf8(raw: bytes) -> bool:
    return raw.decode("utf-8", "ignore").encode() == raw


def test_windows_separators_of_a_chinese_zip_are_slashes(tmp_path):
    zip_of(tmp_path / "a.zip", [b"x\\" + name.replace(b"/", b"\\") for name in names_of("gbk", "乗", "狗")])
    assert classes_of(tmp_path) == sorted(["乗", "狗"])


def test_the_flag_for_utf8_may_be_set_on_other_names(tmp_path):
    names = names_of("gbk", "狗", "鸟")
    zip_of(tmp_path / "a.zip", names, flagged=True)
    with archive.ArchiveReader(tmp_path) as reader:
        assert reader.classes == sorted(["狗", "鸟"])
        assert sorted(data for _, data in reader.read()) == sorted(names)


def test_utf8_is_told_from_other_names_of_the_same_zip(tmp_path, capfd):
    zip_of(tmp_path / "a.zip", [*names_of("gbk", "狗"), *names_of("utf-8", "小猫", "Müller")])
    assert classes_of(tmp_path) == sorted(["狗", "小猫", "Müller"])
    zip_of(tmp_path / "a.zip", names_of("utf-8", "è", "狗"))
    capfd.readouterr()
    assert classes_of(tmp_path) == sorted(["è", "狗"])
    assert "UTF-8" not in capfd.readouterr().err


@pytest.mark.parametrize("fits", [True, False])
def test_the_unicode_path_counts_if_its_checksum_fits_the_name(tmp_path, fits):
    raw = "狗/1.jpg".encode("gbk")
    path = "Straße/1.jpg".encode()
    field = struct.pack("<BL", 1, zlib.crc32(raw) ^ (not fits)) + path
    extra = struct.pack("<HHH", 0xCAFE, 2, 0) + struct.pack("<HH", 0x7075, len(field)) + field
    zip_of(tmp_path / "a.zip", [raw, b"b/1.jpg"], extra=extra)  # for the second one, it never fits
    assert classes_of(tmp_path) == sorted(["Straße" if fits else "狗", "b"])


def test_two_names_that_become_one_are_rejected(tmp_path):
    zip_of(tmp_path / "a.zip", [*names_of("gbk", "狗"), *names_of("utf-8", "狗"), b"b/1.jpg"])
    with pytest.raises(UserError, match=r"a.zip: contains 狗/1.jpg twice"):
        archive.ArchiveReader(tmp_path)
    (tmp_path / "in").mkdir()
    for name in (b"\x82.jpg", "é.jpg".encode()):
        (tmp_path / "in" / name.decode("utf-8", "surrogateescape")).write_bytes(b"")
    with pytest.raises(UserError, match=r"two names there are both é.jpg"):
        index.find_images(tmp_path / "in")


def test_a_damaged_image_is_named_in_its_encoding(tmp_path):
    file = zip_of(tmp_path / "a.zip", names_of("gbk", "狗", "鸟"))
    raw = "狗/2.jpg".encode("gbk")
    file.write_bytes(file.read_bytes().replace(raw + raw, raw + raw[:-1] + b"x"))
    with archive.ArchiveReader(tmp_path) as reader, pytest.raises(UserError, match=r"file '狗/2.jpg'"):
        images(reader)


def test_a_name_that_no_east_asian_encoding_has_is_of_dos():
    encoding = NameEncoding()
    for raw in (*names_of("gbk", "狗"), b"\xff.jpg"):
        encoding.add(raw)
    assert encoding.name == "cp437" and encoding.count == 3


def test_a_table_inside_a_chinese_zip_is_found(tmp_path):
    drawn.tree(tmp_path, {})
    zip_of(tmp_path / "a.zip", [*names_of("gbk", "狗", "鸟"), "标签.csv".encode("gbk")])
    with archive.ArchiveReader(tmp_path) as reader:
        assert reader.read_tables(["标签.csv"]) == {"标签.csv": "标签.csv".encode("gbk")}
