"""A check of the free disk space before any work starts."""

import shutil
from pathlib import Path

from finegrain.core.errors import UserError


def require_free_space(place: Path, bytes_needed: int, what: str) -> None:
    """Stop before any work starts if the disk has too little free space.

    Args:
        place: a file or folder that is going to be written; it need not exist yet.
        bytes_needed: free space needed on the disk of ``place``.
        what: name of what is going to be written, for the message.

    Raises:
        UserError: less than ``bytes_needed`` is free.
    """
    folder = place.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if bytes_needed > free:
        raise UserError(
            f"{place}: {what} needs {_gb(bytes_needed)}, but only {_gb(free)} are free: "
            f"{_gb(bytes_needed - free)} are missing; make room, then `dvc repro` continues from here"
        )


def _gb(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
