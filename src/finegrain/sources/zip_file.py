"""One zip file, its directory read piece by piece.

``zipfile`` keeps about 1 KB a member, 100 MB for a hundred thousand. Here it is shown the archive with a
few hundred directory entries at a time, so that names, sizes, compression and checksums remain its work.
"""

import io
import itertools
import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from finegrain.core.errors import UserError
from finegrain.sources import layout
from finegrain.sources.layout import ArchiveImage, BadMember

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENTRIES_AT_ONCE = 256
_DAMAGE = (
    zipfile.BadZipFile, struct.error, zlib.error, EOFError, OSError, ValueError, NotImplementedError
)  # fmt: skip

# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.12 to 4.3.16
_ENTRY = struct.Struct("<4s24x3H12x")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY_SIGN, _END_SIGN, _END_64_SIGN, _LOCATOR_64_SIGN = b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7"


class ZipArchive:
    """A zip file: its images, and their bytes.

    Raises:
        UserError: damaged, encrypted, a link or an unknown compression inside.
    """

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self.others: Counter[str] = Counter()
        self._file = file

    def members(self, strict: bool = True) -> Iterator[tuple[str, int, int]]:
        """(path, where its bytes are, where its directory entry is) of each image.

        Args:
            strict: refuse the archive for a member that cannot be used, instead of listing it.
        """
        try:
            with self._file.open("rb") as stream:
                directory = _Directory(stream)
                entries = directory.entries()
                while some := list(itertools.islice(entries, _ENTRIES_AT_ONCE)):
                    infos = directory.window(entry for _, entry in some).infolist()
                    for (at, _), info in zip(some, infos, strict=True):
                        name = _decoded_name(info)
                        path = layout.image_path(name)
                        if path is not None:
                            if strict:
                                self._check(path, info)
                            yield path, info.header_offset, at
                        elif kind := layout.ignored_suffix(name):
                            self.others[kind] += 1
        except _DAMAGE as error:
            raise UserError(f"{self._file}: not a readable zip ({error}); fetch it again") from None

    def contents(
        self, images: Iterable[tuple[ArchiveImage, int]]
    ) -> Iterator[tuple[ArchiveImage, bytes | BadMember]]:
        """Of each (image, where its directory entry is) the image and its bytes, or what is wrong with it."""
        with self._file.open("rb") as stream:
            directory, remaining = _Directory(stream), iter(images)
            while some := list(itertools.islice(remaining, _ENTRIES_AT_ONCE)):
                window = directory.window(directory.entry(at) for _, at in some)
                for (image, _), info in zip(some, window.infolist(), strict=True):
                    yield image, self._read(window, image.path, info)

    def _read(self, window: zipfile.ZipFile, path: str, info: zipfile.ZipInfo) -> bytes | BadMember:
        try:
            self._check(path, info)
            with window.open(info) as stream:
                return stream.read(info.file_size)  # bounded, even if the header lies
        except BadMember as error:
            return error
        except _DAMAGE as error:
            return BadMember(self._file, path, f"is damaged ({error})", "fetch it again")

    def _check(self, path: str, info: zipfile.ZipInfo) -> None:
        def bad(reason: str, cure: str) -> BadMember:
            return BadMember(self._file, path, reason, cure)

        if stat.S_ISLNK(info.external_attr >> 16):
            raise bad("is a link", "an archive may hold files and folders only")
        if info.flag_bits & 1:
            raise bad("is encrypted", "unpack the archive with its password and give the folder")
        if info.compress_type not in _METHODS:
            raise bad("is compressed by an unknown method", "pack it anew")
        layout.reject_large(self._file, path, info.file_size)


class _Directory:
    """Where the directory of an open zip is, and how to show ``zipfile`` a part of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        length = stream.seek(0, os.SEEK_END)
        tail_at = stream.seek(max(0, length - _END.size - 0xFFFF))  # a comment may follow
        tail = stream.read()
        found = tail.rfind(_END_SIGN)
        if found < 0:
            raise zipfile.BadZipFile("File is not a zip file")
        *_, size, self._said, _ = _END.unpack_from(tail, found)
        self._end = tail_at + found
        at_64 = self._end - _LOCATOR_64.size - _END_64.size
        if at_64 >= 0:
            stream.seek(at_64)
            end_64, locator = stream.read(_END_64.size), stream.read(_LOCATOR_64.size)
            if end_64.startswith(_END_64_SIGN) and locator.startswith(_LOCATOR_64_SIGN):
                *_, size, self._said = _END_64.unpack(end_64)
                self._end = at_64
        self._start = self._end - size
        if self._start < 0:
            raise zipfile.BadZipFile("Bad offset for central directory")

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Position and bytes of every entry."""
        at = self._start
        while at < self._end:
            entry = self.entry(at)
            yield at, entry
            at += len(entry)
        if at > self._end:
            raise zipfile.BadZipFile("Truncated central directory")

    def entry(self, at: int) -> bytes:
        self._stream.seek(at)
        head = self._stream.read(_ENTRY.size)
        sign, *lengths = _ENTRY.unpack(head)
        if sign != _ENTRY_SIGN:
            raise zipfile.BadZipFile("Bad magic number for central directory")
        return head + self._stream.read(sum(lengths))

    def window(self, entries: Iterable[bytes]) -> zipfile.ZipFile:
        """The archive as if it had these entries only."""
        directory = b"".join(entries)
        tail = (
            directory,
            _END_64.pack(_END_64_SIGN, _END_64.size - 12, 45, 45, 0, 0, 0, 0, len(directory), self._said),
            _LOCATOR_64.pack(_LOCATOR_64_SIGN, 0, self._said + len(directory), 1),
            _END.pack(_END_SIGN, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0),
        )
        return zipfile.ZipFile(_Window(self._stream, self._start, b"".join(tail)))


class _Window(io.RawIOBase):
    """The first bytes of a file, then others."""

    def __init__(self, stream: BinaryIO, start: int, tail: bytes) -> None:
        self._stream, self._start, self._tail = stream, start, tail
        self._position = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._start + len(self._tail)}
        self._position = base[whence] + offset
        if self._position < 0:
            raise OSError("a position before the beginning")
        return self._position

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes: a read ends where the tail begins."""
        if self._position < self._start:
            before = self._start - self._position
            self._stream.seek(self._position)
            data = self._stream.read(min(size, before) if size >= 0 else before)
        else:
            begin = self._position - self._start
            data = self._tail[begin : begin + size if size >= 0 else None]
        self._position += len(data)
        return data


def _decoded_name(info: zipfile.ZipInfo) -> str:
    """UTF-8 also where the flag that says so is missing, as in zips made on macOS; Windows' backslashes."""
    is_utf8 = info.flag_bits & 0x800
    name = info.filename if is_utf8 else layout.decode_name(info.filename.encode("cp437"))
    return name.replace("\\", "/")
