"""Whether there is room, asked before any work starts."""

import shutil
from pathlib import Path

from finegrain.core.errors import UserError


def require_free_space(place: Path, bytes_needed: int, what: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        place: a file or folder that is going to be written; it need not exist yet.
        what: is going to be written, for the message.

    Raises:
        UserError: less than ``bytes_needed`` are free.
    """
    folder = place.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if bytes_needed > free:
        raise UserError(
            f"{place}: {what} needs {_gb(bytes_needed)}, but {_gb(free)} are free: "
            f"{_gb(bytes_needed - free)} are missing; make room, then `dvc repro` goes on from here"
        )


def _gb(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
