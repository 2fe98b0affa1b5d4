"""Read one tar file, compressed or not, in streaming passes from its beginning.

``tarfile`` decodes the headers. The code around it is needed because ``tarfile`` treats a damaged header, or
the end of the file, as the end of the archive; reads only the first of several gzip streams or tars; and
compares no checksum of a compressed stream.
"""

import contextlib
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from finegrain.core import log
from finegrain.core.errors import UserError
from finegrain.sources import layout
from finegrain.sources.compressed_file import BUFFER_BYTES, open_stream
from finegrain.sources.index import IgnoredFiles
from finegrain.sources.layout import ArchiveImage, BadMember, Member
from finegrain.sources.name_encoding import NameEncoding, is_surely_utf8

_READ_ERRORS = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)
_NO_END = "cut off: its end-of-archive block is missing; if it is complete, unpack it and use the folder"
_REST_OF_FILE = b"M"
_NO_FILES = (tarfile.DIRTYPE, b"D", b"V")  # GNU tar's folders of an incremental backup, and volume labels
_MAGIC = slice(257, 262)
"""Where every header since 1988 has ``ustar``."""


class TarArchive:
    """The images of a tar file.

    Args:
        name_encoding: encoding of the names that are not ASCII; None means UTF-8 or a guess.

    Raises:
        UserError: the file is damaged or cut off, or contains links or devices.
    """

    def __init__(self, file: Path, name_encoding: str | None = None) -> None:
        self.name = file.name
        self.ignored = IgnoredFiles()
        self._file = file
        self._encoding = NameEncoding(name_encoding) if name_encoding else None

    def members(self, strict: bool = True) -> Iterator[Member]:
        """List the images; one pass. What follows the end of the archive is reported.

        Args:
            strict: raise BadMember for a member that cannot be used, instead of listing it.
        """
        self.ignored.clear()  # each pass counts them again
        count = 0
        for _, info in self._walk(report=True):
            name, path = self._decoded_name(info)
            if strict:
                self._check(name, path, info)
            if path is not None:
                yield Member(path, count, 0)
                count += 1
            else:
                self.ignored.add(name)

    def contents(
        self, images: Iterable[tuple[ArchiveImage, int]]
    ) -> Iterator[tuple[ArchiveImage, bytes | BadMember]]:
        """Read images, given in the order of ``members``, or say what is wrong with each; one pass."""
        walk = self._walk()
        for image, _ in images:  # without images, the file is not opened
            yield image, self._read_next(image.path, walk)

    def other_files(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Path and content of the wanted files that are not images, such as tables; one pass."""
        for tar, info in self._walk():
            name, path = self._decoded_name(info)
            if path is None and info.isreg() and wanted(name):
                layout.reject_large(self._file, name, info.size)
                yield name, cast(BinaryIO, tar.extractfile(info)).read()

    def _read_next(
        self, path: str, walk: Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]
    ) -> bytes | BadMember:
        """Go on to the next member of that path and read it."""
        try:
            for tar, info in walk:
                if self._decoded_name(info)[1] == path:
                    self._check(path, path, info)
                    stream = tar.extractfile(info)
                    return stream.read() if stream else b""
        except BadMember as error:
            return error
        except _READ_ERRORS as error:
            return BadMember(self._file, path, f"is damaged ({error})", "download it again")
        except UserError:
            pass  # the damage is before this member
        return BadMember(self._file, path, "comes after a damaged place", "download it again")

    def _walk(self, report: bool = False) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        """Yield every member but folders; each must be read before the next one is requested."""
        try:
            with open_stream(self._file) as stream, _TarFile(fileobj=stream, encoding="utf-8") as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has read
                    if info.type not in _NO_FILES:
                        yield tar, info
                extra_bytes = tar.read_rest()
        except _READ_ERRORS as error:
            raise UserError(f"{self._file}: not a readable tar ({error}); download it again") from None
        if report and tar.tar_count > 1:
            log.info(f"{self._file}: {tar.tar_count} tars, one after the other; all of them are read")
        if report and extra_bytes:
            log.info(f"{self._file}: {extra_bytes:,} bytes after the end of the tar are not read")

    def _decoded_name(self, info: tarfile.TarInfo) -> tuple[str, str | None]:
        """The member's name as text, and its image path if it is an image."""
        raw = info.name.encode("utf-8", "surrogateescape")
        if self._encoding is None and not is_surely_utf8(raw):
            self._encoding = self._find_encoding()
        name = (self._encoding or NameEncoding()).decode(raw)
        return name, layout.image_path(name)

    def _find_encoding(self) -> NameEncoding:
        """Consider the names of all members; a pass that most tars do not need."""
        encoding = NameEncoding()
        with contextlib.suppress(UserError):  # damage is reported where the members are listed
            for _, info in self._walk():
                encoding.add(info.name.encode("utf-8", "surrogateescape"))
        encoding.report(self._file)
        return encoding

    def _check(self, name: str, path: str | None, info: tarfile.TarInfo) -> None:
        """Raise BadMember for a link, a device or an image that is too large."""
        if info.type == _REST_OF_FILE:
            fix = "unpack all volumes with tar and use the folder"
            raise BadMember(self._file, name, "began in another volume of this tar", fix)
        if not info.isreg():
            fix = "only files and folders are allowed in an archive"
            raise BadMember(self._file, name, "is a link or device", fix)
        if path is not None:
            layout.reject_large(self._file, path, info.size)


class _Header(tarfile.TarInfo):
    """A header whose damage is an error wherever it is; ``tarfile`` stops there as if it were the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf[_MAGIC] == b"ustar":
                raise tarfile.ReadError(f"a damaged header: {error}") from None
            if buf and not any(buf):  # also the first part of an empty block
                raise tarfile.EOFHeaderError from None  # type: ignore[attr-defined]
            raise

    @classmethod
    def fromtarfile(cls, tarfile: "_TarFile") -> Self:  # type: ignore[override]
        return cast(Self, tarfile.checked_header(super().fromtarfile))


class _TarFile(tarfile.TarFile):
    """A tar that is read to the end of the file, across the empty blocks that end it."""

    tarinfo = _Header
    ignore_zeros = True  # other tars may follow
    tar_count = 1
    """Number of tars that were joined."""
    _at_end = False
    """Whether the last block was one of those that end a tar."""
    _extra_bytes = 0

    def checked_header(self, read: Callable[[Any], tarfile.TarInfo]) -> tarfile.TarInfo:
        """Read a header.

        Raises:
            tarfile.HeaderError: an empty block or, after those, the end of the file or something else.
            tarfile.ReadError: a damaged header, or the end of the file without empty blocks.
        """
        try:
            header = read(self)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # an empty block
            self._at_end = True
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]  # the end of the file
            if self._at_end:
                raise
            raise tarfile.ReadError(_NO_END) from None
        except tarfile.SubsequentHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            if not self._at_end:
                raise tarfile.ReadError(f"a damaged header: {error}") from None
            self._extra_bytes = cast(BinaryIO, self.fileobj).tell() - self.offset
            raise tarfile.EmptyHeaderError from None  # type: ignore[attr-defined]
        if header.size < 0 or self.offset <= header.offset:
            raise tarfile.ReadError("a negative size")
        self.tar_count += self._at_end
        self._at_end = False
        return header

    def read_rest(self) -> int:
        """Read on to the end of the file, which also compares the checksum of a compressed one.

        Returns:
            Number of bytes after the archive that are no tar.

        Raises:
            tarfile.ReadError: they contain a header: the one before it is damaged.
        """
        while chunk := cast(BinaryIO, self.fileobj).read(BUFFER_BYTES):
            self._extra_bytes += len(chunk)
            if any(chunk.startswith(b"ustar", at) for at in range(_MAGIC.start, len(chunk), 512)):
                raise tarfile.ReadError("damaged: headers follow that belong to no tar")
        return self._extra_bytes
