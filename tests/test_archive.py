"""Archives are read in place, whatever their kind; an unusable one is rejected by name."""

import hashlib
import itertools
import os
import stat
import tarfile
import tracemalloc
import zipfile

import drawn
import pytest
from toy_data import FILES, WRITERS, contents, images

from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.sources import archive


@pytest.mark.parametrize("name", WRITERS)
def test_read_gives_the_wanted_images_in_reading_order(tmp_path, name):
    WRITERS[name](tmp_path / name, {"readme.txt": b"-", **FILES})
    with archive.ArchiveReader(tmp_path) as reader:
        assert [(i.index, i.path, i.part, i.split, i.class_name) for i in images(reader)] == [
            (0, "cat/1.jpg", name, None, "cat"),
            (1, "cat/2.jpg", name, None, "cat"),
            (2, "dog/1.jpg", name, None, "dog"),
        ]
        assert len(reader) == 3 and reader.classes == ["cat", "dog"]
        assert [reader.index_of(path) for path in ("dog/1.jpg", "cat/1.jpg", "cat/9.jpg")] == [2, 0, None]
        some = reader.read(wanted=lambda image: image.index != 1)
        assert [(i.path, data) for i, data in some] == [("cat/1.jpg", b"c1"), ("dog/1.jpg", b"d1")]
        assert list(reader.read(wanted=lambda image: False)) == []
        assert contents(reader) == list(FILES.items())  # a second pass


def test_several_parts_are_one_archive(tmp_path):
    drawn.zip_file(tmp_path / "p1.zip", {"x/train/cat/1.jpg": b"1", "x/test/dog/4.jpg": b"4"})
    drawn.tar_file(tmp_path / "p2.tar.gz", {"x/train/dog/2.jpg": b"2", "x/test/cat/3.jpg": b"3"})
    (tmp_path / ".p3.zip.tmp").write_bytes(b"half")
    with archive.ArchiveReader(tmp_path) as reader:
        found = {i.path: (i.part, i.split, data) for i, data in reader.read()}
    assert found == {
        "x/train/cat/1.jpg": ("p1.zip", "train", b"1"),
        "x/test/dog/4.jpg": ("p1.zip", "test", b"4"),
        "x/train/dog/2.jpg": ("p2.tar.gz", "train", b"2"),
        "x/test/cat/3.jpg": ("p2.tar.gz", "test", b"3"),
    }


def test_junk_is_ignored_and_dot_folders_are_dropped(tmp_path):
    junk = "__MACOSX/cat/._1.jpg cat/._1.jpg cat/.ipynb_checkpoints/1.jpg .git/1.jpg cat/.DS_Store".split()
    junk += ["cat/Thumbs.db", "../cat/9.jpg", "cat/notes.csv"]
    drawn.tar_file(
        tmp_path / "a.tar", {**dict.fromkeys(junk, b""), **{f"./{k}": v for k, v in FILES.items()}}
    )
    with archive.ArchiveReader(tmp_path) as reader:
        assert contents(reader) == list(FILES.items())


def test_absolute_paths_are_read_as_relative_and_nothing_is_written(tmp_path):
    drawn.tar_file(tmp_path / "a.tar", {f"/{k}": v for k, v in FILES.items()})
    with archive.ArchiveReader(tmp_path) as reader:
        assert contents(reader) == list(FILES.items())
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("name", WRITERS)
def test_other_files_are_counted_by_suffix_except_for_junk(tmp_path, name, capfd):
    others = ["cat/3.CR2", "cat/4.cr2", "dog/list.csv", "LICENSE", "cat/Thumbs.db", "__MACOSX/cat/5.cr2"]
    WRITERS[name](tmp_path / name, {**FILES, **dict.fromkeys(others, b"")})
    with archive.ArchiveReader(tmp_path) as reader:
        assert reader.ignored == {".cr2": 2, ".csv": 1, "no suffix": 1}
        list(reader.read())
        assert reader.ignored[".cr2"] == 2
        archive.report_ignored(reader.ignored)
    printed = capfd.readouterr().err
    assert ": 2 .cr2 (such as cat/3.CR2); RAW is " in printed and ": 1 .csv, 1 no suffix\n" in printed


def test_an_empty_class_folder_is_not_a_class(tmp_path):
    file = drawn.zip_file(tmp_path / "in" / "a.zip", FILES)
    with zipfile.ZipFile(file, "a") as packed:
        packed.mkdir("bird")
    (drawn.tree(tmp_path / "photos", FILES) / "bird").mkdir()
    for source in (file, tmp_path / "photos"):
        archive.store_local(str(source), tmp_path / "out" / source.name)
        with archive.ArchiveReader(tmp_path / "out" / source.name) as reader:
            assert reader.classes == ["cat", "dog"]


def test_names_are_read_as_utf8_with_or_without_the_flag_else_as_cp437(tmp_path):
    file = drawn.zip_file(
        tmp_path / "a.zip", {"cafe-XX/1.jpg": b"1", "cafe-YY/1.jpg": b"2", "na\u00efve/1.jpg": b"3"}
    )
    raw = file.read_bytes().replace(b"-XX", b"\xc3\xa9X").replace(b"-YY", b"\x82YY")  # bytes without the flag
    file.write_bytes(raw)
    with archive.ArchiveReader(tmp_path) as reader:
        found = [(image.class_name, data) for image, data in reader.read()]
    assert found == [("cafe\u00e9X", b"1"), ("cafe\u00e9YY", b"2"), ("na\u00efve", b"3")]


def test_windows_backslashes_are_slashes(tmp_path):
    drawn.zip_file(tmp_path / "a.zip", {k.replace("/", "\\"): v for k, v in FILES.items()})
    with archive.ArchiveReader(tmp_path) as reader:
        assert [image.class_name for image in images(reader)] == ["cat", "cat", "dog"]


def _link(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("cat/1.jpg")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)


def _zip_link(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        info = zipfile.ZipInfo("cat/1.jpg")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        packed.writestr(info, "/etc/passwd")


def _encrypted(tmp_path):
    file = drawn.zip_file(tmp_path / "a.zip", FILES)
    raw = bytearray(file.read_bytes())
    at = raw.index(b"PK\x01\x02")
    raw[at + 8] |= 1
    file.write_bytes(raw)


def _lying_size(tmp_path):
    file = drawn.zip_file(tmp_path / "a.zip", FILES)
    raw = bytearray(file.read_bytes())
    at = raw.index(b"PK\x01\x02")
    raw[at + 24 : at + 28] = (300_000_000).to_bytes(4, "little")
    file.write_bytes(raw)


def _cut(name):
    def make(tmp_path):
        noise = {f"{c}/{n}.jpg": os.urandom(5000) for c, n in itertools.product("ab", range(20))}
        file = WRITERS[name](tmp_path / name, noise)
        file.write_bytes(file.read_bytes()[:100_300])

    return make


def _overlap(tmp_path):
    drawn.tar_file(tmp_path / "a.tar", FILES)
    drawn.zip_file(tmp_path / "b.zip", {"bird/1.jpg": b"", "cat/2.jpg": b""})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no archive"),
        (_link, "cat/1.jpg is a link or device"),
        (_zip_link, "cat/1.jpg is a link"),
        (_encrypted, "is encrypted"),
        (_lying_size, "cat/1.jpg has 300 MB"),
        (_cut("a.zip"), "not a readable zip"),
        (_cut("a.tar"), "not a readable tar"),
        (_cut("a.tar.gz"), "not a readable tar"),
        (lambda folder: (folder / "a.zip").write_bytes(b"<html>"), "not a readable zip"),
        (lambda folder: (folder / "a.tgz").write_bytes(b"<html>"), "not a readable tar"),
        (
            lambda folder: drawn.tar_file(folder / "a.tar", {"cat/1.jpg": b"", "./cat/1.jpg": b""}),
            "a.tar: .*cat/1.jpg twice",
        ),
        (_overlap, "cat/2.jpg is in both a.tar and b.zip"),
    ],
)
def test_a_bad_archive_is_rejected_with_its_name(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        archive.ArchiveReader(tmp_path)


def test_a_damaged_member_is_named_when_it_is_read(tmp_path):
    file = drawn.zip_file(tmp_path / "a.zip", {**FILES, "dog/2.jpg": b"payload"})
    file.write_bytes(file.read_bytes().replace(b"payload", b"pAyload"))
    with (
        archive.ArchiveReader(tmp_path) as reader,
        pytest.raises(UserError, match=r"a.zip: dog/2.jpg is damaged \(Bad CRC"),
    ):
        list(reader.read())


def test_describe_gives_one_digest_for_one_file_and_for_several(tmp_path):
    one = drawn.zip_file(tmp_path / "b.zip", FILES)
    digest = hashlib.sha256(one.read_bytes()).hexdigest()
    size = one.stat().st_size
    assert archive.describe(tmp_path) == {
        "files": [{"name": "b.zip", "bytes": size, "sha256": digest}],
        "sha256": digest,
    }
    (tmp_path / "a.zip").write_bytes(one.read_bytes())
    both = f"{digest}  a.zip\n{digest}  b.zip\n".encode()
    assert archive.describe(tmp_path)["sha256"] == hashlib.sha256(both).hexdigest()


def test_replace_folder_replaces_only_at_the_end_and_drops_leftovers(tmp_path):
    target = drawn.tree(tmp_path / "pack", {"old": b"1"})
    drawn.tree(tmp_path / ".pack.new.tmp", {"left by a killed run": b""})
    with pytest.raises(ZeroDivisionError), file_io.replace_folder(target) as folder:
        (folder / "new").touch()
        assert 1 / 0
    assert [file.name for file in tmp_path.rglob("*")] == ["pack", "old"]
    with file_io.replace_folder(target) as folder:
        (folder / "new").touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["pack", "new"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_an_archive_of_many_images_is_read_in_constant_memory(tmp_path, name):
    peaks = []
    for count in (1500, 4500):  # both beyond the buffers
        folder = tmp_path / str(count)
        WRITERS[name](folder / name, {f"{'ab'[n % 2]}/{n}.jpg": bytes(2000) for n in range(count)})
        tracemalloc.start()
        with archive.ArchiveReader(folder) as reader:
            assert sum(len(data) for _, data in reader.read()) == count * 2000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000  # 3,000 names, and headers or directory entries of 1 KB each


def test_an_error_of_the_caller_is_not_reported_as_a_damaged_archive(tmp_path):
    drawn.tar_file(tmp_path / "a.tar", FILES)
    with archive.ArchiveReader(tmp_path) as reader, pytest.raises(OSError, match="mine"):
        for _ in reader.read():
            raise OSError("mine")
