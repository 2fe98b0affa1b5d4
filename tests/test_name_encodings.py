"""Names inside archives that are not UTF-8, and how one encoding is chosen for all of an archive."""

import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import drawn
import pytest
from params_file import write_params
from toy_data import contents, images

import download
import inputs as stage_inputs
import pack
import split
from finegrain.config import params
from finegrain.core.errors import UserError
from finegrain.serving import inputs
from finegrain.sources import archive, index
from finegrain.sources.name_encoding import NameEncoding


def zip_of(
    file: Path,
    names: list[bytes],
    flagged: bool = False,
    extra: bytes = b"",
    content: Mapping[bytes, bytes] | None = None,
) -> Path:
    """A zip of members with these raw names, each holding its own name or ``content``.

    Args:
        flagged: set the flag for UTF-8.
        extra: extra field of each member.
    """
    members, directory = b"", b""
    for name in names:
        data = content[name] if content else name
        rest = struct.pack(
            "<5H3L2H", 20, 0x800 * flagged, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name),
            len(extra),
        )  # fmt: skip
        directory += b"PK\1\2\x14\0" + rest + struct.pack("<3H2L", 0, 0, 0, 0, len(members)) + name + extra
        members += b"PK\3\4" + rest + name + extra + data
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


def names_of(encoding: str, *classes: str, images: int = 2) -> list[bytes]:
    return [f"{name}/{number + 1}.jpg".encode(encoding) for name in classes for number in range(images)]


CLASSES = [
    ("gbk", ("狗", "猫"), "Chinese"),  # the second one is valid UTF-8
    ("gbk", ("鹦鹉", "乗", "猕猴桃"), "Chinese"),  # the last byte of the second is a backslash
    ("cp932", ("カメラ", "ナイト"), "Shift-JIS"),  # letters only in DOS's code page too
    ("cp932", ("ソニー", "犬", "表"), "Shift-JIS"),  # first and last have a backslash
    ("cp437", ("Größe", "Mädchen", "Möwe"), "437"),
    ("cp437", ("crème brûlée", "été"), "437"),
    ("big5", ("貓", "長頸鹿", "向日葵", "鬱金香", "牛肉麵"), "Big5"),
    ("cp866", ("кошка", "собака", "медведь", "самолёт"), "866"),
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
        printed = capfd.readouterr().err
        count = sum(not _is_utf8(name) for name in names)
        assert f" {count} names are not UTF-8" in printed and reported in printed


def _is_utf8(raw: bytes) -> bool:
    return raw.decode("utf-8", "ignore").encode() == raw


GIVEN = [
    ("cp949", ("고양이", "개", "뷁")),
    ("big5", ("貓", "狗", "許功蓋")),  # each of the last three ends with a backslash
    ("cp866", ("кошка", "пёс", "Ёж")),
    ("koi8-r", ("кошка", "собака")),
]


@pytest.mark.parametrize(("encoding", "classes"), GIVEN)
def test_an_encoding_that_is_given_is_used_in_zips_tars_and_folders(tmp_path, capfd, encoding, classes):
    names = names_of(encoding, *classes)
    (tmp_path / "tree").mkdir()
    for name in names:
        file = os.fsencode(tmp_path / "tree") + b"/" + name
        os.makedirs(os.path.dirname(file), exist_ok=True)
        Path(os.fsdecode(file)).write_bytes(name)
    sources = [zip_of(tmp_path / "a.zip", names), tar_of(tmp_path / "a.tar", names), tmp_path / "tree"]
    for number, source in enumerate(sources):
        archive.store_local(str(source), tmp_path / str(number), name_encoding=encoding)
        with archive.ArchiveReader(tmp_path / str(number), name_encoding=encoding) as reader:
            assert reader.classes == sorted(classes)
            assert sorted(data for _, data in contents(reader)) == sorted(names)
    assert "not UTF-8" not in capfd.readouterr().err


def test_names_that_are_marked_as_utf8_or_are_nothing_else_stay_utf8(tmp_path):
    zip_of(tmp_path / "a.zip", names_of("utf-8", "개", "고양이"), flagged=True)
    with archive.ArchiveReader(tmp_path, name_encoding="cp949") as reader:
        assert reader.classes == sorted(["개", "고양이"])
    zip_of(tmp_path / "a.zip", [*names_of("cp949", "개"), *names_of("utf-8", "小")])
    with archive.ArchiveReader(tmp_path, name_encoding="cp949") as reader:
        assert reader.classes == sorted(["개", "小"])


def test_a_name_in_another_encoding_than_the_given_one_is_rejected(tmp_path):
    zip_of(tmp_path / "a.zip", [b"\xff/1.jpg", b"b/1.jpg"])
    with pytest.raises(UserError, match=r"dataset.name_encoding: cp949: the name \\xff/1.jpg"):
        archive.ArchiveReader(tmp_path, name_encoding="cp949")


def test_files_of_a_folder_are_guessed_like_those_of_an_archive(tmp_path, capfd):
    for name in names_of("gbk", "狗", "鹦鹉"):
        file = Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name)
    archive.store_local(str(tmp_path / "in"), tmp_path / "out")
    assert classes_of(tmp_path / "out") == sorted(["狗", "鹦鹉"])
    assert "4 names are not UTF-8; read as GB 18030" in capfd.readouterr().err
    found, _ = index.find_images(tmp_path / "in")
    (source,) = inputs.find_photos([str(tmp_path / "in")])
    assert {photo.relative_path for photo in source.photos} == set(found)
    assert all(photo.name == str(tmp_path / "in" / photo.relative_path) for photo in source.photos)


def test_the_stages_use_the_encoding_of_params_yaml(project):
    names = {
        name: drawn.png(number) for number, name in enumerate(names_of("cp949", "고양이", "개", images=6))
    }
    zip_of(project / "a.zip", list(names), content=names)
    dataset = {"name": "t", "source": "archive", "path": "a.zip", "name_encoding": "cp949"}
    write_params(project, dataset=dataset, pack={"image_size": 32})
    for stage in (stage_inputs, download, split, pack):
        stage.main([])
    assert json.loads(Path("data/t/source.json").read_text())["name_encoding"] == "cp949"
    assert json.loads(Path("reports/t/inputs/download.json").read_text())["name_encoding"] == "cp949"
    assert json.loads(Path("data/t/pack/pack.json").read_text())["classes"] == ["개", "고양이"]


@pytest.mark.parametrize("name", ["utf-16", "rot13", "nonsense", "", "idna\0", 5])
def test_only_an_encoding_that_contains_ascii_can_be_given(project, name):
    write_params(project, dataset={"name": "t", "source": "archive", "path": "a", "name_encoding": name})
    with pytest.raises(UserError, match="dataset.name_encoding: "):
        params.load_params()


def test_windows_separators_of_a_chinese_zip_are_slashes(tmp_path):
    zip_of(tmp_path / "a.zip", [b"x\\" + name.replace(b"/", b"\\") for name in names_of("gbk", "乗", "狗")])
    assert classes_of(tmp_path) == sorted(["乗", "狗"])


def test_the_flag_for_utf8_may_be_set_on_other_names(tmp_path):
    names = names_of("gbk", "狗", "鸟")
    zip_of(tmp_path / "a.zip", names, flagged=True)
    with archive.ArchiveReader(tmp_path) as reader:
        assert reader.classes == sorted(["狗", "鸟"])
        assert sorted(data for _, data in reader.read()) == sorted(names)


def test_utf8_is_recognized_among_other_names_of_the_same_zip(tmp_path, capfd):
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
