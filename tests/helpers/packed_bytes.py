"""Archives as bytes, to be cut, joined and damaged."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from finegrain.sources import archive

BLOCK = 512
"""Size of a tar's header, and what its contents are padded to."""


def tar(files: Mapping[str, bytes], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format) as packed:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def tar_gz(files: Mapping[str, bytes]) -> bytes:
    return gzip.compress(tar(files), mtime=0)


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as packed:
        packed.comment = comment
        for path, data in files.items():
            packed.writestr(path, data)
    return stream.getvalue()


def flipped(data: bytes, offset: int, bits: int = 1) -> bytes:
    """The data with some bits of one byte changed."""
    offset %= len(data)
    return data[:offset] + bytes([data[offset] ^ bits]) + data[offset + 1 :]


def members(data: bytes) -> list[tarfile.TarInfo]:
    """The members of a tar, with their offsets."""
    with tarfile.open(fileobj=io.BytesIO(data)) as packed:
        return packed.getmembers()


def end_of_members(data: bytes) -> int:
    """Where the empty blocks begin that end a tar."""
    last = members(data)[-1]
    return last.offset_data + -(-last.size // BLOCK) * BLOCK


def read(folder: Path, name: str, data: bytes) -> dict[str, bytes]:
    """Write the archive and read all of its images."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    with archive.ArchiveReader(folder) as reader:
        found = {image.path: content for image, content in reader.read()}
        assert len(found) == len(reader)
    return found
