"""Files and folders that are replaced as a whole; JSON, CSV and SHA-256."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from finegrain.core.errors import UserError


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
        raise UserError(f"{file}: is a folder, but must be a file; remove or rename it")
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


def _fsync(path: Path) -> None:
    """Make a file's content, or a rename inside a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
