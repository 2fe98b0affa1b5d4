"""Replace a folder as a whole, and only one that is as an export left it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finegrain import exported, record
from finegrain.errors import UserError


def require_replaceable(folder: Path) -> None:
    """Refuse to overwrite what is not, file by file, as an export left it.

    Raises:
        UserError: the folder holds other files, or changed ones such as a card that was edited.
    """
    if not folder.exists():
        return
    cure = "move it away, or give another --out"
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; {cure}")
    found = {file.name for file in folder.iterdir()}
    if not found:
        return
    try:
        sums: dict[str, str] = record.read_json(folder / exported.CONFIG)["finegrain"]["sha256"]
    except (UserError, TypeError, KeyError):
        raise UserError(f"{folder}: is not a folder that an export made; {cure}") from None
    if strange := sorted(found - sums.keys() - {exported.CONFIG}):
        raise UserError(f"{folder / strange[0]}: no export wrote this; {cure}")
    for name in sorted(found & sums.keys()):
        if record.sha256(folder / name) != sums[name]:
            raise UserError(f"{folder / name}: was changed since it was exported; {cure}")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder``, which it replaces once the block has ended without an error.

    A folder cannot be replaced in one step: between the two renames neither has its name. A kill just there
    leaves the old one under a hidden name, from where the next export takes it back.
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
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for rest in (new, old):
            shutil.rmtree(rest, ignore_errors=True)
