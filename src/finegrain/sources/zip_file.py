"""Read one zip file in constant memory, its central directory piece by piece.

``zipfile`` alone takes about 1 KB a member, 100 MB for 100,000 images. Here it gets the archive with a few
hundred directory entries at a time, and still decodes names, sizes, compression and checksums. ``zipfile``
trusts the directory; here it is compared with what the file holds.
"""

import contextlib
import io
import itertools
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from finegrain.core.errors import UserError
from finegrain.sources import layout, zip_check
from finegrain.sources.index import IgnoredFiles
from finegrain.sources.layout import ArchiveImage, BadMember, Member
from finegrain.sources.name_encoding import NameEncoding

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENTRIES_PER_WINDOW = 256
_READ_ERRORS = (
    zipfile.BadZipFile, struct.error, zlib.error, EOFError, OSError, ValueError, NotImplementedError
)  # fmt: skip

# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.12 to 4.3.16
_ENTRY = struct.Struct("<4s24x3H12x")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_LOCAL_SIGNATURE, _LOCAL_SIZE = b"PK\3\4", 30
_UTF8_FLAG = 0x08
"""In the second byte of the flags; it is also set on names that are not UTF-8."""
_UNICODE_PATH = 0x7075
"""Extra field of Info-ZIP, section 4.6.9: version, CRC-32 of the other name, the name in UTF-8."""
_ENTRY_SIGNATURE = b"PK\1\2"
_END_SIGNATURE = b"PK\5\6"
_END_64_SIGNATURE = b"PK\6\6"
_LOCATOR_64_SIGNATURE = b"PK\6\7"


class ZipArchive:
    """The images of a zip file.

    Args:
        name_encoding: encoding of the names that are not marked as UTF-8; None means a guess.

    Raises:
        UserError: the file is damaged or encrypted, or contains links or an unknown compression.
    """

    def __init__(self, file: Path, name_encoding: str | None = None) -> None:
        self.name = file.name
        self.ignored = IgnoredFiles()
        self._file = file
        self._given_encoding = name_encoding
        self._encoding: NameEncoding | None = None

    def members(self, strict: bool = True) -> Iterator[Member]:
        """List the images in the order of the central directory.

        Args:
            strict: raise BadMember for an image that cannot be used, instead of listing it.
        """
        self.ignored.clear()  # each pass counts them again
        try:
            with self._file.open("rb") as stream:
                directory = _Directory(stream)
                encoding = self._name_encoding(directory)
                content = zip_check.Content(stream)
                entries = directory.entries()
                while batch := list(itertools.islice(entries, _ENTRIES_PER_WINDOW)):
                    infos = directory.window(entry for _, entry in batch).infolist()
                    for (offset, entry), info in zip(batch, infos, strict=True):
                        name = _decoded_name(entry, encoding)
                        path = layout.image_path(name)
                        content.add(info, _raw_name(entry), is_image=path is not None)
                        if path is not None:
                            if strict:
                                self._check(path, info)
                            yield Member(path, info.header_offset, offset)
                        else:
                            self.ignored.add(name)
                content.check(directory.entry_count, directory.start, strict)
        except _READ_ERRORS as error:
            raise UserError(f"{self._file}: not a readable zip ({error}); download it again") from None

    def contents(
        self, images: Iterable[tuple[ArchiveImage, int]]
    ) -> Iterator[tuple[ArchiveImage, bytes | BadMember]]:
        """Read images, each given with its ``Member.entry``, or say what is wrong with each."""
        with self._file.open("rb") as stream:
            directory, remaining = _Directory(stream), iter(images)
            while batch := list(itertools.islice(remaining, _ENTRIES_PER_WINDOW)):
                window = directory.window(directory.entry(offset) for _, offset in batch)
                for (image, _), info in zip(batch, window.infolist(), strict=True):
                    yield image, self._read(window, image.path, info)

    def other_files(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Path and content of the wanted files that are not images, such as tables."""
        with self._file.open("rb") as stream:
            directory = _Directory(stream)
            encoding = self._name_encoding(directory)
            entries = (entry for _, entry in directory.entries())
            while batch := list(itertools.islice(entries, _ENTRIES_PER_WINDOW)):
                window = directory.window(batch)
                for entry, info in zip(batch, window.infolist(), strict=True):
                    name = _decoded_name(entry, encoding)
                    if layout.image_path(name) is None and not info.is_dir() and wanted(name):
                        data = self._read(window, name, info)
                        if isinstance(data, BadMember):
                            raise data
                        yield name, data

    def _name_encoding(self, directory: "_Directory") -> NameEncoding:
        """Consider all names once; report which encoding was assumed for those that are not UTF-8."""
        if self._encoding is None:
            self._encoding = NameEncoding(self._given_encoding)
            with contextlib.suppress(*_READ_ERRORS):  # damage is reported where the entries are listed
                for _, entry in directory.entries():
                    if _unicode_path(entry) is None:
                        self._encoding.add(_raw_name(entry))
            self._encoding.report(self._file)
        return self._encoding

    def _read(self, window: zipfile.ZipFile, path: str, info: zipfile.ZipInfo) -> bytes | BadMember:
        try:
            self._check(path, info)
            info.filename = path  # for the messages of zipfile
            with window.open(info) as stream:
                data = stream.read(info.file_size)  # bounded even if the header gives a wrong size
            if len(data) == info.file_size:
                return data
            return BadMember(
                self._file, path, "is damaged (shorter than its header says)", "download it again"
            )
        except BadMember as error:
            return error
        except _READ_ERRORS as error:
            return BadMember(self._file, path, f"is damaged ({error})", "download it again")

    def _check(self, path: str, info: zipfile.ZipInfo) -> None:
        """Raise BadMember for a link, an encrypted image, an unknown compression or too large an image."""
        if stat.S_ISLNK(info.external_attr >> 16):
            reason, fix = "is a link", "only files and folders are allowed in an archive"
        elif info.flag_bits & 1:
            reason, fix = "is encrypted", "unpack the archive with its password and use the folder"
        elif info.compress_type not in _METHODS:
            reason, fix = "is compressed by an unknown method", "create the archive again"
        else:
            layout.reject_large(self._file, path, info.file_size)
            return
        raise BadMember(self._file, path, reason, fix)


class _Directory:
    """The central directory of an open zip; shows ``zipfile`` a part of it at a time.

    Raises:
        zipfile.BadZipFile: there is no directory, it does not fit into the file, or another zip follows.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        length = stream.seek(0, os.SEEK_END)
        tail_offset = stream.seek(max(0, length - _END.size - 0xFFFF))  # a comment may follow
        tail = stream.read()
        found = tail.rfind(_END_SIGNATURE)
        if found < 0:
            raise zipfile.BadZipFile("File is not a zip file")
        fields = _END.unpack_from(tail, found)
        _, disk, _, _, count, size, self._recorded_start, comment_size = fields
        self.entry_count: int = count
        """Number of entries that the end of the directory gives."""
        after = tail_offset + found + _END.size + comment_size
        self._end = tail_offset + found
        offset_64 = self._end - _LOCATOR_64.size - _END_64.size
        if offset_64 >= 0:
            stream.seek(offset_64)
            end_64, locator = stream.read(_END_64.size), stream.read(_LOCATOR_64.size)
            if end_64.startswith(_END_64_SIGNATURE) and locator.startswith(_LOCATOR_64_SIGNATURE):
                *_, disk, _, _, self.entry_count, size, self._recorded_start = _END_64.unpack(end_64)
                self._end = offset_64
        if disk not in (0, 0xFFFF):
            raise zipfile.BadZipFile("one part of a split zip; join them by `zip -s 0 x.zip --out whole.zip`")
        if zip_check.find_local_headers(stream, after, length)[0]:
            raise zipfile.BadZipFile("another zip follows it; use them as two parts")
        self.start = self._end - size  # differs from the recorded one if bytes precede the archive
        if self.start < 0:
            raise zipfile.BadZipFile("Bad offset for central directory")

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and bytes of every entry."""
        offset = self.start
        while offset < self._end:
            entry = self.entry(offset)
            yield offset, entry
            offset += len(entry)
        if offset > self._end:
            raise zipfile.BadZipFile("Truncated central directory")

    def entry(self, offset: int) -> bytes:
        """The bytes of the entry that begins at an offset of the file."""
        self._stream.seek(offset)
        head = self._stream.read(_ENTRY.size)
        signature, *lengths = _ENTRY.unpack(head)
        if signature != _ENTRY_SIGNATURE:
            raise zipfile.BadZipFile("Bad magic number for central directory")
        return head + self._stream.read(sum(lengths))

    def window(self, entries: Iterable[bytes]) -> zipfile.ZipFile:
        """Open the archive as if its directory had only these entries.

        Without the flag for UTF-8, ``zipfile`` takes every byte of a name as it is.
        """
        directory = b"".join(entry[:9] + bytes([entry[9] & ~_UTF8_FLAG]) + entry[10:] for entry in entries)
        start, size = self._recorded_start, len(directory)
        tail = (
            directory,
            _END_64.pack(_END_64_SIGNATURE, _END_64.size - 12, 45, 45, 0, 0, 0, 0, size, start),
            _LOCATOR_64.pack(_LOCATOR_64_SIGNATURE, 0, start + size, 1),
            _END.pack(_END_SIGNATURE, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0),
        )
        return zipfile.ZipFile(_Spliced(self._stream, self.start, b"".join(tail)))


class _Spliced(io.RawIOBase):
    """The first ``start`` bytes of a file, followed by ``tail``."""

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
            raise OSError("seek to a negative position")
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read at most ``size`` bytes; a read ends where the tail begins."""
        if self._position < self._start:
            remaining = self._start - self._position
            self._stream.seek(self._position)
            data = self._stream.read(min(size, remaining) if size >= 0 else remaining)
            if len(data) == _LOCAL_SIZE and data.startswith(_LOCAL_SIGNATURE):
                data = data[:7] + bytes([data[7] & ~_UTF8_FLAG]) + data[8:]  # as in the directory
        else:
            begin = self._position - self._start
            data = self._tail[begin : begin + size if size >= 0 else None]
        self._position += len(data)
        return data


def _raw_name(entry: bytes) -> bytes:
    """The name in an entry of the central directory."""
    name_size, _, _ = _ENTRY.unpack_from(entry)[1:]
    return entry[_ENTRY.size :][:name_size]


def _unicode_path(entry: bytes) -> str | None:
    """The name in the extra field for it; None if there is none, or it belongs to another name."""
    name_size, extra_size, _ = _ENTRY.unpack_from(entry)[1:]
    extra = entry[_ENTRY.size + name_size :][:extra_size]
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        data, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and data[1:5] == zlib.crc32(_raw_name(entry)).to_bytes(4, "little"):
            with contextlib.suppress(UnicodeDecodeError):
                return data[5:].decode("utf-8")
    return None


def _decoded_name(entry: bytes, encoding: NameEncoding) -> str:
    """The member's name with forward slashes, also from Windows.

    Decoded first: the second byte of a Chinese or Japanese character may be that of a backslash. The flag for
    UTF-8 is missing in zips made on macOS, and set on some names that are not UTF-8.
    """
    name = _unicode_path(entry) or encoding.decode(_raw_name(entry), bool(entry[9] & _UTF8_FLAG))
    return name.partition("\0")[0].replace("\\", "/")
