"""Read a compressed file forwards: all of its streams, each with its checksum."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

BUFFER_BYTES = 1 << 20


def open_stream(file: Path) -> BinaryIO:
    """Open a file, decompressing it if it is compressed by gzip, bzip2 or xz."""
    stream = io.BufferedReader(file.open("rb", buffering=0), BUFFER_BYTES)
    for magic, new in _DECOMPRESSORS.items():
        if stream.peek(8).startswith(magic):
            return cast(BinaryIO, io.BufferedReader(_Decompressed(stream, magic, new), BUFFER_BYTES))
    return cast(BinaryIO, stream)


class _Gunzip:
    """zlib's decompressor of one gzip stream, with the methods of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(data or self._inflate.unconsumed_tail, max_length)


_Decompressor = _Gunzip | bz2.BZ2Decompressor | lzma.LZMADecompressor
_DECOMPRESSORS: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": _Gunzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma.LZMADecompressor,
}  # by the first bytes of a file


class _Decompressed(io.RawIOBase):
    """All compressed streams of a file, one after the other; each one's checksum is compared.

    Kept instead of the modules gzip, bz2 and lzma because the latter two silently ignore what follows the
    first stream if its beginning is damaged.
    """

    def __init__(self, file: BinaryIO, magic: bytes, new: Callable[[], _Decompressor]) -> None:
        self._file, self._magic, self._new = file, magic, new
        self._decompressor = new()
        self._unused = b""
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Skip bytes; the end of the file is no error, as in any file."""
        target = offset + (self._position if whence == io.SEEK_CUR else 0)
        if target < self._position or whence == io.SEEK_END:
            raise OSError("a compressed file is only read forwards")
        while self._position < target and self._read_some(min(target - self._position, BUFFER_BYTES)):
            pass
        return self._position

    def readinto(self, target: Any) -> int:
        data = self._read_some(len(target))
        target[: len(data)] = data
        return len(data)

    def _read_some(self, max_length: int) -> bytes:
        """At least one byte, unless the file has ended."""
        data = b""
        while not data:
            if self._decompressor.eof and not self._start_next_stream():
                return b""
            piece = b""
            if self._decompressor.needs_input:
                piece = self._unused or self._file.read(1 << 16)
                self._unused = b""
            data = self._decompressor.decompress(piece, max_length)
            if not (data or piece or self._decompressor.eof):
                raise EOFError("the compressed data is cut off")
        self._position += len(data)
        return data

    def _start_next_stream(self) -> bool:
        """Skip zeros, which may pad a stream; return whether another stream follows."""
        rest = self._decompressor.unused_data.lstrip(b"\0")
        while not rest and (piece := self._file.read(1 << 16)):
            rest = piece.lstrip(b"\0")
        if not rest:
            return False
        rest += self._file.read(len(self._magic))
        if not rest.startswith(self._magic):
            raise OSError("something that is not compressed follows the compressed data")
        self._decompressor, self._unused = self._new(), rest
        return True
