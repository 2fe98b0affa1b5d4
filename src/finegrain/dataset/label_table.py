"""Read tables of labels: which image is of which class, and perhaps of which split and group."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from finegrain.config.dataset import LabelParams, SplitName
from finegrain.core.errors import UserError
from finegrain.sources import layout

_SEPARATORS = ",;\t|"
_USUAL_NAMES = {
    "image": "image|images|img|photo|file|filename|filepath|path|imagepath|imagefile|imagename|imageid|id",
    "class": "class|label|classname|labelname|category|species|breed|target",
    "split": "split",
}
"""Names of columns that are found without params.yaml; case, spaces and underscores do not count."""


class LabelRow(NamedTuple):
    """What a table says about one image."""

    where: str
    """File and line, such as ``labels.csv line 3``."""
    image: str
    """As in the table."""
    class_name: str
    """Empty if the table gives none."""
    split: SplitName | None = None
    group: str = ""


def read_csv(name: str, data: bytes, labels: LabelParams) -> Iterator[LabelRow]:
    """The rows of one table, whose first line names the columns.

    Args:
        labels: the columns, where they have no usual name.

    Raises:
        UserError: the table is empty or not readable, lacks a column, or has an unknown split.
    """
    lines = _lines(name, data)
    header = next(lines, (0, []))[1]
    if not header:
        raise UserError(f"{name}: is empty; its first line must name the columns")
    columns = {
        "image": _find_column(name, header, "image", labels.image),
        "class": _find_column(name, header, "class", labels.class_column),
        "split": None if isinstance(labels.file, dict) else _find_column(name, header, "split", labels.split),
        "group": _find_column(name, header, "group", labels.group),
    }
    count, unsplit = 0, 0
    for line, cells in lines:
        count += 1
        if extra := [cell for cell in cells[len(header) :] if cell.strip()]:
            raise UserError(
                f"{name} line {line}: {extra[0]!r} is in no column: the line has {len(cells)} cells and the "
                f"header {len(header)}; put cells that hold the separator in quotes"
            )
        cells += [""] * (len(header) - len(cells))
        image, class_name, split, group = (
            "" if column is None else cells[column].strip() for column in columns.values()
        )
        known = layout.split_name(split) if split else None
        if split and known is None:
            raise UserError(f"{name} line {line}: {split!r} is no split; write train, val or test")
        unsplit += columns["split"] is not None and not split
        if unsplit and unsplit < count:
            raise UserError(f"{name} line {line}: the cell of the split is empty here, or only filled here")
        yield LabelRow(f"{name} line {line}", image, class_name, known, group)
    if not count:
        raise UserError(f"{name}: has a header, but no row")


def _lines(name: str, data: bytes) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is not blank; cells are text and stay as they are.

    The separator is the one of comma, semicolon, tab and bar that gives the first line most cells.
    """
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: is not in UTF-8 ({error.reason}); save it as CSV in UTF-8") from None
    first = next((line for line in text.splitlines() if line.strip(_SEPARATORS + " ")), "")
    separator = max(_SEPARATORS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{name} line {reader.line_num}: not readable as CSV: {error}") from None


def _find_column(name: str, header: Sequence[str], kind: str, wanted: str | None) -> int | None:
    """Index of the column that params.yaml names, or else of the only one with a usual name.

    None for a split or group that params.yaml does not name and the table does not have.

    Raises:
        UserError: there is no such column, or several; the message names all columns.
    """
    seen = f"its columns are {', '.join(map(repr, map(str.strip, header)))}"
    if wanted is not None:
        found = [i for i, column in enumerate(header) if column.strip() == wanted.strip()]
        problem = f"no column {wanted!r}" if not found else f"several columns {wanted!r}"
    else:
        usual = _USUAL_NAMES.get(kind, "(?!)")
        found = [i for i, column in enumerate(header) if re.fullmatch(usual, _plain(column))]
        problem = f"no column for the {kind}" if not found else f"several columns may be the {kind}"
    if len(found) == 1:
        return found[0]
    if kind in ("split", "group") and wanted is None and not found:
        return None
    raise UserError(f"{name}: {problem}; {seen}; set dataset.labels.{kind}")


def _plain(column: str) -> str:
    return re.sub(r"[\W_]+", "", column.lower())
