"""What every stage writes: JSON and CSV files, progress bars, lines for the person who watches."""

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
    """A temporary file beside ``file``, which it replaces once the block has ended without an error.

    Never written in place: the old one may be a hard link into DVC's cache. The temporary name is always the
    same, so that what a kill leaves behind is overwritten by the next run. A device or pipe is written to
    directly.

    Args:
        durable: on disk, and not only in the system's buffers, when the block has ended.

    Raises:
        UserError: ``file`` is a folder.
    """
    if file.is_dir():
        raise UserError(f"{file}: is a folder; give a file")
    if file.exists() and not file.is_file():
        yield file
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        yield temporary
        if durable:
            fsync(temporary)
        os.replace(temporary, file)
        if durable:
            fsync(file.parent)  # the rename itself
    except OSError as error:
        error.filename = error.filename or str(file)  # a write that fails does not say where
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder``, which it replaces once the block has ended without an error.

    A folder cannot be replaced in one step: between the two renames neither has its name. A kill just there
    leaves the old one under a hidden name, from where the next call restores it.
    """
    folder = folder.resolve()
    new, old = (folder.with_name(f".{folder.name}.{kind}.tmp") for kind in ("new", "old"))
    if old.exists() and not folder.exists():
        old.rename(folder)
    for rest in (new, old):
        shutil.rmtree(rest, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        error.filename = error.filename or str(folder)  # a write that fails does not say where
        raise
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for rest in (new, old):
            shutil.rmtree(rest, ignore_errors=True)


def write_bytes(file: Path, content: bytes) -> None:
    """Whole or not at all."""
    with replace_file(file) as temporary:
        temporary.write_bytes(content)


def write_text(file: Path, text: str) -> None:
    write_bytes(file, text.encode())


def write_json(file: Path, data: Any) -> None:
    """Keys in the order given, NaN refused."""
    write_text(file, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: not found; `dvc repro` makes it") from None
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); delete it and run `dvc repro`") from None


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with replace_file(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv_writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)


def csv_writer(stream: IO[str]) -> Any:
    """Lines end as on Unix, and a carriage return in a name is quoted, which Python 3.11 would leave bare."""
    return csv.writer(_Lines(stream), lineterminator="\r\n")


class _Lines:
    """What a csv.writer writes to: one line a call."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, line: str) -> int:
        return self._stream.write(line.removesuffix("\r\n") + "\n")


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Make a file's content, or a rename inside a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
