"""An archive that was cut, damaged or joined is read whole or rejected; it never gives fewer images."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import tarfile
import zipfile

import packed_bytes
import pytest
from packed_bytes import BLOCK, flipped, tar, zipped

from finegrain.core.errors import UserError
from finegrain.sources import archive, zip_check

RNG = random.Random(0)
FILES = {
    f"{name}/{n}.jpg": RNG.randbytes(RNG.randrange(1, 1500)) for name in ("ant", "bee") for n in range(6)
}
FIRST, SECOND = dict(list(FILES.items())[:5]), dict(list(FILES.items())[5:])
TAR = tar(FILES)
BORDER = packed_bytes.members(TAR)[7].offset
"""Where a member begins."""
END = packed_bytes.end_of_members(TAR)
GZ = gzip.compress(TAR, mtime=0)
ZIP = zipped({**FILES, "notes.txt": b"text"})


def gz(*parts: bytes) -> bytes:
    return b"".join(gzip.compress(part, mtime=0) for part in parts)


def with_fewer_listed(data: bytes, missing: int) -> bytes:
    """A zip whose directory and its end agree, but do not list the last files."""
    end = data.rindex(b"PK\5\6")
    size, start = (int.from_bytes(data[end + at : end + at + 4], "little") for at in (12, 16))
    entries = data[start : start + size].split(b"PK\1\2")[1:-missing]
    directory = b"".join(b"PK\1\2" + entry for entry in entries)
    count = len(entries).to_bytes(2, "little")
    record = data[end : end + 8] + count * 2 + len(directory).to_bytes(4, "little") + data[end + 16 :]
    return data[:start] + directory + record


INNER = zipped({"x/1.jpg": b"1", "y/1.jpg": b"2"})
OUTER = zipped({**FILES, "z/inner.zip": INNER})

WHOLE = {
    "gzip streams that follow each other": ("a.tar.gz", gz(TAR[:3000], TAR[3000:])),
    "a gzip stream padded with zeros": ("a.tgz", GZ + bytes(2000)),
    "tars that follow each other": ("a.tar", tar(FIRST) + tar(SECOND)),
    "tars that follow each other, compressed together": ("a.tar.gz", gz(tar(FIRST) + tar(SECOND))),
    "tars that follow each other, each compressed": ("a.tar.gz", gz(tar(FIRST), tar(SECOND))),
    "many tars": ("a.tar", b"".join(tar({path: data}) for path, data in FILES.items())),
    "an empty block between two members": ("a.tar", TAR[:BORDER] + bytes(BLOCK) + TAR[BORDER:]),
    "one empty block at the end": ("a.tar", TAR[: END + BLOCK]),
    "a part of an empty block at the end": ("a.tar", TAR[: END + 99]),
    "a tar of long names": ("a.tar", tar(FILES, tarfile.PAX_FORMAT)),
    "bzip2 streams that follow each other": ("a.tar", bz2.compress(TAR[:3000]) + bz2.compress(TAR[3000:])),
    "xz streams that follow each other": ("a.tar", lzma.compress(TAR[:3000]) + lzma.compress(TAR[3000:])),
    "a zip with a cut comment": ("a.zip", zipped(FILES, comment=b"comment")[:-3]),
    "a zip after a program": ("a.zip", b"#!/bin/sh\n" * 50 + ZIP),
    "a zip within a zip": ("a.zip", OUTER),
}
REJECTED = {
    "a damaged header": ("a.tar", flipped(TAR, BORDER + 150), "damaged header"),
    "a tar that ends between two members": ("a.tar", TAR[:BORDER], "cut off"),
    "a tar without its end": ("a.tar", TAR[:END], "cut off"),
    "a compressed tar that ends between two members": ("a.tar.gz", gz(TAR[:BORDER]), "cut off"),
    "a header of zeros": ("a.tar", TAR[:BORDER] + bytes(BLOCK) + TAR[BORDER + BLOCK :], "belong to no tar"),
    "a damaged first empty block": ("a.tar", flipped(TAR, END + 5), "damaged header"),
    "joined tars, the second one damaged": ("a.tar", TAR + flipped(tar({"ant/x.jpg": b""}), 150), "damaged"),
    "a gzip checksum that does not fit": ("a.tar.gz", flipped(GZ, -6), "incorrect data check"),
    "a gzip length that does not fit": ("a.tar.gz", flipped(GZ, -2), "incorrect length check"),
    "a gzip stream without its checksum": ("a.tar.gz", GZ[:-8], "cut off"),
    "something else after the gzip stream": ("a.tar.gz", GZ + b"<html>", "is not compressed"),
    "a damaged second gzip stream": ("a.tar.gz", GZ + flipped(gz(TAR), 1), "is not compressed"),
    "a damaged second xz stream": (
        "a.tar",
        lzma.compress(TAR[:3000]) + flipped(lzma.compress(TAR[3000:]), 2),
        "is not compressed",
    ),
    "a directory that lists fewer files": ("a.zip", with_fewer_listed(ZIP, 3), r"3 files .* as ant/|bee/4"),
    "a directory of another length than its end says": (
        "a.zip",
        flipped(ZIP, ZIP.rindex(b"PK\5\6") + 10),
        "lists 13 files, not 12",
    ),
    "two zips": ("a.zip", zipped(FIRST) + zipped(SECOND), "5 files in it are not in its directory"),
    "a zip and the beginning of another": ("a.zip", ZIP + zipped(FIRST)[:900], "another zip follows"),
    "a zip cut off after a zip within it": (
        "a.zip",
        OUTER[: OUTER.index(INNER) + len(INNER)],
        "13 files in it are not in its directory",
    ),
    "one part of a split zip": ("a.zip", flipped(ZIP, ZIP.rindex(b"PK\5\6") + 4), "split zip"),
    "an image that the directory calls otherwise": (
        "a.zip",
        flipped(ZIP, ZIP.rindex(b"bee/3"), 0x4C),
        "differ",
    ),
    "a file that the directory calls otherwise": ("a.zip", flipped(ZIP, ZIP.rindex(b"notes")), "differ"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_complete_is_read_whole(tmp_path, name):
    file, data = WHOLE[name]
    assert packed_bytes.read(tmp_path, file, data) == FILES


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_incomplete_is_rejected(tmp_path, name):
    file, data, message = REJECTED[name]
    with pytest.raises(UserError, match=f"{file}: .*({message})"):
        packed_bytes.read(tmp_path, file, data)


def test_joined_tars_and_other_bytes_after_the_end_are_reported(tmp_path, capfd):
    assert packed_bytes.read(tmp_path / "1", "a.tar", tar(FIRST) + tar(SECOND)) == FILES
    assert "a.tar: 2 tars, one after the other; all of them are read" in capfd.readouterr().err
    assert packed_bytes.read(tmp_path / "2", "a.tar", TAR + b"signature" * 200) == FILES
    assert "a.tar: 1,800 bytes after the end of the tar are not read" in capfd.readouterr().err
    assert packed_bytes.read(tmp_path / "3", "a.tar", TAR) == FILES
    assert capfd.readouterr().err == ""


def test_volume_labels_and_backup_folders_are_no_files(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as packed:
        for kind, name, data in [(b"V", "photos of 2024", b""), (b"D", "ant/", b"Y1.jpg\0\0")]:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(data)
            packed.addfile(member, io.BytesIO(data))
    assert packed_bytes.read(tmp_path, "a.tar", stream.getvalue()[: 3 * BLOCK] + TAR) == FILES


def test_a_file_continued_from_another_volume_is_rejected(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        member = tarfile.TarInfo("ant/1.jpg")
        member.type = b"M"
        packed.addfile(member)
    with pytest.raises(UserError, match=r"a.tar: ant/1.jpg began in another volume"):
        packed_bytes.read(tmp_path, "a.tar", stream.getvalue())


def test_a_sparse_file_is_read_with_its_holes(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "1.jpg").open("wb") as file:
            file.truncate(300_000)
            file.seek(150_000)
            file.write(name.encode() * 999)
    content = {f"{name}/1.jpg": (tmp_path / name / "1.jpg").read_bytes() for name in ("ant", "bee")}
    if not shutil.which("tar"):
        pytest.skip("needs GNU tar")
    for kind in ("gnu", "posix"):
        done = subprocess.run(
            ["tar", "--sparse", f"--format={kind}", "-cf", "-", "ant", "bee"],
            cwd=tmp_path,
            capture_output=True,
        )
        if done.returncode:
            pytest.skip("needs GNU tar")
        assert packed_bytes.read(tmp_path / kind, "a.tar", done.stdout) == content


def test_hidden_images_are_counted(tmp_path):
    hidden = {
        "ant/.1.jpg": b"",
        ".ant/2.jpg": b"",
        "../ant/3.jpg": b"",
        "ant/._1.jpg": b"",
        ".git/4.jpg": b"",
    }
    (tmp_path / "a.tar").write_bytes(tar({**FILES, **hidden}))
    with archive.ArchiveReader(tmp_path) as reader:
        assert reader.ignored == {"hidden .jpg": 3}


def test_two_names_that_become_one_are_rejected(tmp_path):
    for first, second in [("ant/1.jpg", "ant//./1.jpg"), ("ant/1.jpg", "ant\\1.jpg")]:
        with pytest.raises(UserError, match=r"a.zip: contains ant/1.jpg twice"):
            packed_bytes.read(tmp_path, "a.zip", zipped({first: b"1", second: b"2", "bee/1.jpg": b"3"}))


def test_a_zip_with_extra_fields_and_descriptors_holds_nothing_unlisted(tmp_path):
    """The extra field of a local header is no room for a file."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.content = b""

        def writable(self):
            return True

        def write(self, data):
            self.content += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as packed:
        for path, data in FILES.items():
            info = zipfile.ZipInfo(path)
            info.extra = b"\xfe\xca\x20\0" + bytes(32)
            packed.writestr(info, data)
    assert b"PK\7\x08" in pipe.content
    assert packed_bytes.read(tmp_path, "a.zip", pipe.content) == FILES


def test_a_file_that_is_not_listed_is_found_across_the_pieces_that_are_read():
    header = zipped({"ant/1.jpg": b""})[:39]
    for size in range((1 << 20) - 40, (1 << 20) + 2):
        stream = io.BytesIO(bytes(size) + header)
        assert zip_check.find_local_headers(stream, 0, size + len(header)) == (1, b"ant/1.jpg")
    assert zip_check.find_local_headers(stream, 0, 1 << 40) == (1, b"ant/1.jpg")  # beyond the file's end
