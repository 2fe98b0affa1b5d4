"""Compare a zip's directory with the files that it holds.

Readers of zips trust the directory: if it was damaged, or the zip was joined with another one, they find
fewer files without an error.
"""

import itertools
import re
import struct
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from finegrain.sources import index
from finegrain.sources.name_encoding import decode_name

_KNOWN_METHODS = (0, 8, 9, 12, 14, 93, 95, 99)
# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, section 4.3.7
_LOCAL_HEADER = struct.Struct("<4sB3xH16x2H")
_LOCAL_SIGNATURE = b"PK\3\4"


class Content:
    """The content of an open zip before its directory, compared with the entries of the directory.

    The file is read only where there is room for more between two entries, and to compare the names of files
    that are not images; ``zipfile`` compares those of the images.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._database = index.temp_table()
        self._database.execute("CREATE TABLE entry (begin INTEGER, name_size INTEGER, size INTEGER)")
        self._problem: str | None = None
        self._count = 0

    def add(self, info: zipfile.ZipInfo, name: bytes, is_image: bool) -> None:
        """Note an entry of the directory."""
        row = (info.header_offset, len(name), info.compress_size)
        self._database.execute("INSERT INTO entry VALUES (?, ?, ?)", row)
        self._count += 1
        if (
            not (is_image or self._problem)
            and (local_name := self._local_name(info.header_offset)[0]) != name
        ):
            self._problem = f"File name in directory {name!r} and header {local_name!r} differ."

    def check(self, expected_count: int, directory_start: int, strict: bool) -> None:
        """Compare the entries with their number and with the local headers in the file.

        Args:
            expected_count: as the end of the directory gives it.
            directory_start: offset of the directory.
            strict: whether overlapping entries are an error.

        Raises:
            zipfile.BadZipFile: they do not agree, or entries overlap.
        """
        if self._problem:
            raise zipfile.BadZipFile(self._problem)
        # without the zip64 extension, old programs write the remainder of the division by 65,536
        if expected_count not in (self._count, self._count % 0x10000, 0xFFFF):
            listed = f"{self._count} files, not {expected_count}"
            raise zipfile.BadZipFile(f"its directory lists {listed} as its end says")
        unlisted, example = 0, b""
        for begin, end in self._gaps(directory_start):
            if begin > end and strict:
                raise zipfile.BadZipFile(f"entries overlap at byte {end}")
            count, name = find_local_headers(self._stream, begin, end)
            unlisted, example = unlisted + count, example or name
        if unlisted:
            name_text = decode_name(example)
            raise zipfile.BadZipFile(
                f"{unlisted} files in it are not in its directory, such as {name_text}: it was damaged or "
                "joined with another zip; repair it by `zip -FF`"
            )

    def _gaps(self, directory_start: int) -> Iterator[tuple[int, int]]:
        """(begin, end) of what lies between the entries; begin > end where they overlap."""
        end, last = 0, None
        rows = self._database.execute("SELECT begin, name_size, size FROM entry ORDER BY begin")
        for begin, name_size, size in itertools.chain(rows, [(directory_start, 0, 0)]):
            if last and begin - end > _LOCAL_HEADER.size:  # room for a file, or just for an extra field
                name, extra_size = self._local_name(last[0])
                end = last[0] + _LOCAL_HEADER.size + len(name) + extra_size + last[1]
            yield end, begin
            end, last = begin + _LOCAL_HEADER.size + name_size + size, (begin, size)

    def _local_name(self, offset: int) -> tuple[bytes, int]:
        """Name and size of the extra field in a local header; b"" and 0 if there is none."""
        self._stream.seek(max(0, offset))
        head = self._stream.read(_LOCAL_HEADER.size)
        if not head.startswith(_LOCAL_SIGNATURE) or len(head) < _LOCAL_HEADER.size:
            return b"", 0
        *_, name_size, extra_size = _LOCAL_HEADER.unpack(head)
        return self._stream.read(name_size), extra_size


def find_local_headers(stream: BinaryIO, begin: int, end: int) -> tuple[int, bytes]:
    """Number of local headers in a part of a file, and the name in the first."""
    count, first_name = 0, b""
    while end - begin > _LOCAL_HEADER.size:
        stream.seek(begin)
        chunk = stream.read(min(1 << 20, end - begin))
        if len(chunk) < _LOCAL_HEADER.size:  # the file ends before
            break
        for match in re.finditer(_LOCAL_SIGNATURE, chunk[: len(_LOCAL_SIGNATURE) - _LOCAL_HEADER.size]):
            _, version, method, name_size, _ = _LOCAL_HEADER.unpack_from(chunk, match.start())
            if version <= 63 and method in _KNOWN_METHODS and 0 < name_size < 4096:
                count += 1
                if not first_name:
                    stream.seek(begin + match.start() + _LOCAL_HEADER.size)
                    first_name = stream.read(name_size)
        begin += len(chunk) - _LOCAL_HEADER.size + 1
    return count, first_name
