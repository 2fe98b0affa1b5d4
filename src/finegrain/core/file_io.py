"""Files and folders that are replaced as a whole; JSON, CSV and SHA-256; names of unknown encoding."""

import csv
import functools
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from finegrain.core import log
from finegrain.core.errors import UserError

_CANDIDATES = {
    "cp437": "DOS's code page 437",
    "gb18030": "GB 18030 (Chinese)",
    "cp932": "Shift-JIS (Japanese)",
}
"""In order of preference where they fit equally well. Every name is valid in the first one."""
_LATIN_LETTERS = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜáíóúñÑß"
_KANA = "".join(map(chr, range(0x3041, 0x3100)))
_WORD = re.compile(r"[@-\U0010ffff]+")
"""No second byte of a character in GB 18030's two bytes, or in Shift-JIS, is less than ``@``."""


@contextmanager
def replace_file(file: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside ``file``; it replaces ``file`` when the block ends without an error.

    A file is never written in place, because it may be a hard link into DVC's cache. The temporary name is
    always the same, so the next run overwrites what a killed one leaves behind. A device or a pipe is written
    directly.

    Args:
        durable: wait until the file and its new name are on disk, and not only in the system's buffers.

    Raises:
        UserError: ``file`` is a folder.
    """
    if file.is_dir():
        raise UserError(f"{file}: is a folder, but must be a file")
    if file.exists() and not file.is_file():
        yield file
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        yield temporary
        if durable:
            _fsync(temporary)
        os.replace(temporary, file)
        if durable:
            _fsync(file.parent)  # the rename itself
    except OSError as error:
        error.filename = error.filename or str(file)  # a write that fails does not name the file
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; it replaces ``folder`` when the block ends without an error.

    Replacing a folder takes two renames, and between them no folder has the name. A process killed at that
    moment leaves the old folder under a hidden name; the next call restores it.
    """
    folder = folder.resolve()
    new, old = (folder.with_name(f".{folder.name}.{kind}.tmp") for kind in ("new", "old"))
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        error.filename = error.filename or str(folder)  # a write that fails does not name the file
        raise
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def write_bytes(file: Path, content: bytes) -> None:
    """Replace a file by these bytes: either the whole content is written or nothing."""
    with replace_file(file) as temporary:
        temporary.write_bytes(content)


def write_text(file: Path, text: str) -> None:
    """Replace a file by this text, in UTF-8."""
    write_bytes(file, text.encode())


def write_json(file: Path, data: Any) -> None:
    """Replace a file by this data as JSON, with keys in their order.

    Raises:
        ValueError: the data contain NaN or an infinity.
    """
    write_text(file, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(file: Path) -> Any:
    """Read a JSON file that a stage wrote.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: not found; run `dvc repro` to create it") from None
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); delete it and run `dvc repro`") from None


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Replace a file by a CSV with a header line."""
    with replace_file(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv_writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)


def csv_writer(stream: IO[str]) -> Any:
    """A ``csv.writer`` whose lines end with a line feed and which quotes carriage returns in values.

    Python 3.11 quotes a carriage return only where the line terminator contains one.
    """
    return csv.writer(_LineFeeds(stream), lineterminator="\r\n")


class _LineFeeds:
    """A stream for ``csv.writer`` that ends each line with a line feed; each call writes one line."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, line: str) -> int:
        return self._stream.write(line.removesuffix("\r\n") + "\n")


def sha256(file: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class NameEncoding:
    """Which encoding the names of an archive are in that are not UTF-8.

    Every candidate that can decode all of them is rated by its share of common characters among those that
    are not ASCII: Chinese characters of GB 2312; kana and the kanji of JIS level 1; accented letters, less
    than half of their word. Others, such as box-drawing characters, come from decoding wrongly. The best one
    is used for all of them.

    Args:
        given: the encoding of all names that are not marked as UTF-8, by Python's name; None means a guess.
    """

    def __init__(self, given: str | None = None) -> None:
        self._given = given
        self.count = 0
        """Number of names that are not UTF-8."""
        self._example = b""
        self._valid = list(_CANDIDATES)
        self._common: Counter[str] = Counter()
        self._all: Counter[str] = Counter()

    def add(self, raw: bytes) -> None:
        """Consider a name."""
        if utf8_text(raw) is not None:
            return
        self.count += 1
        self._example = self._example or raw
        for encoding in list(self._valid):
            try:
                text = raw.decode(encoding)
            except UnicodeDecodeError:
                self._valid.remove(encoding)
                continue
            for word in _WORD.findall(text):
                self._all[encoding] += sum(not letter.isascii() for letter in word)
                if encoding != "cp437" or _is_latin(word):
                    self._common[encoding] += sum(letter in _common(encoding) for letter in word)

    @property
    def name(self) -> str:
        """As Python calls it; code page 437 if no name was considered."""
        return self._given or max(
            self._valid, key=lambda encoding: self._common[encoding] / max(1, self._all[encoding])
        )

    def decode(self, raw: bytes, flagged: bool = False) -> str:
        """Decode a name: as UTF-8 if it is valid.

        Some short names are valid by chance: "cat" in Chinese is then an accented e. They are read like the
        names that are not UTF-8 if that gives nothing but common characters.

        Args:
            flagged: the archive says that it is UTF-8.

        Raises:
            UserError: it is neither in the given encoding nor UTF-8.
        """
        if raw.isascii() or (flagged and utf8_text(raw) is not None):
            return raw.decode("utf-8")
        if self._given:
            return self._decode_as_given(raw)
        if is_surely_utf8(raw):
            return raw.decode("utf-8")
        other = raw.decode(self.name, "replace")
        if utf8_text(raw) is None:
            return other
        text = raw.decode("utf-8")
        by_chance = (
            self.name != "cp437"
            and all(letter.isascii() or letter in _common(self.name) for letter in other)
            and not any(map(_is_latin, _WORD.findall(text)))
        )
        return other if by_chance else text

    def _decode_as_given(self, raw: bytes) -> str:
        try:
            return raw.decode(self.name)
        except UnicodeDecodeError:
            if (text := utf8_text(raw)) is not None:
                return text
        shown = raw.decode("ascii", "backslashreplace")
        raise UserError(f"dataset.name_encoding: {self.name}: the name {shown} is in another encoding")

    def report(self, file: Path) -> None:
        """Tell the user what was assumed, if there was any name that is not UTF-8."""
        if self.count and not self._given:
            log.info(
                f"{file}: {self.count} names are not UTF-8; read as {_CANDIDATES[self.name]}, such as "
                f"{self.decode(self._example)}; if that is wrong, set dataset.name_encoding"
            )


def decode_name(raw: bytes) -> str:
    """Decode a single name: as UTF-8 if it is valid, otherwise as DOS's code page 437."""
    return NameEncoding().decode(raw)


def utf8_text(raw: bytes) -> str | None:
    """The bytes as text if they are UTF-8, otherwise None."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def is_surely_utf8(raw: bytes) -> bool:
    """Whether a name is UTF-8 and cannot be two-byte characters of another encoding."""
    text = utf8_text(raw)
    return text is not None and (text.isascii() or max(text) >= "\u0800")


def _is_latin(word: str) -> bool:
    """Whether less than half of the letters of a word are accented, and at least one."""
    return 0 < 2 * sum(not letter.isascii() for letter in word) < len(word)


@functools.cache
def _common(encoding: str) -> frozenset[str]:
    """Common characters of an encoding that are not ASCII."""
    if encoding == "cp437":
        return frozenset(_LATIN_LETTERS)
    if encoding == "gb18030":  # GB 2312, rows 16 to 87
        pairs = (bytes((first, second)) for first in range(0xB0, 0xF8) for second in range(0xA1, 0xFF))
        return frozenset("".join(pair.decode("gb2312", "ignore") for pair in pairs))
    pairs = (bytes((first, second)) for first in range(0x88, 0x98) for second in range(0x40, 0xFD))
    return frozenset(_KANA + "".join(pair.decode("cp932", "ignore") for pair in pairs)) - frozenset(
        map(chr, range(128))
    )


def _fsync(path: Path) -> None:
    """Make a file's content, or a rename inside a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
