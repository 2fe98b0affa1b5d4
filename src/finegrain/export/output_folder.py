"""Whether a folder may be replaced: only one that is as an export left it."""

from pathlib import Path

from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.serving import hub


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
        sums: dict[str, str] = file_io.read_json(folder / hub.CONFIG)["finegrain"]["sha256"]
    except (UserError, TypeError, KeyError):
        raise UserError(f"{folder}: is not a folder that an export made; {cure}") from None
    if strange := sorted(found - sums.keys() - {hub.CONFIG}):
        raise UserError(f"{folder / strange[0]}: no export wrote this; {cure}")
    for name in sorted(found & sums.keys()):
        if file_io.sha256(folder / name) != sums[name]:
            raise UserError(f"{folder / name}: was changed since it was exported; {cure}")
