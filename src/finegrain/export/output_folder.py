"""Protect a folder from being replaced unless an export made it and nobody has changed it."""

from pathlib import Path

from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.serving import hub


def require_replaceable(folder: Path) -> None:
    """Check that a folder is missing, empty, or exactly as an export wrote it, by the sha256 of each file.

    Raises:
        UserError: it holds other files, or changed ones such as an edited model card.
    """
    if not folder.exists():
        return
    fix = "move it away, or give another --out"
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; {fix}")
    found = {file.name for file in folder.iterdir()}
    if not found:
        return
    try:
        sums: dict[str, str] = file_io.read_json(folder / hub.CONFIG)["finegrain"]["sha256"]
    except (UserError, TypeError, KeyError):
        raise UserError(f"{folder}: is not a folder that `finegrain export` wrote; {fix}") from None
    if foreign := sorted(found - sums.keys() - {hub.CONFIG}):
        raise UserError(f"{folder / foreign[0]}: was not written by `finegrain export`; {fix}")
    for name in sorted(found & sums.keys()):
        if file_io.sha256(folder / name) != sums[name]:
            raise UserError(f"{folder / name}: was changed after the export; {fix}")
