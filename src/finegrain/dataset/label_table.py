"""Read tables of labels, and the files with labels of known datasets.

They give the class of each image, and may give its split and group.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finegrain.config.dataset import LAYOUT_FILES, LabelLayout, LabelParams, SplitName
from finegrain.core.errors import UserError, some
from finegrain.sources import layout

_SEPARATORS = ",;\t|"
_EXCEL_SEPARATOR = re.compile(r"sep=(.)\r?\n")
_USUAL_NAMES = {
    "image": "image|images|img|photo|file|filename|filepath|path|imagepath|imagefile|imagename|imageid|id",
    "class": "class|label|classname|labelname|category|species|breed|target",
    "split": "split",
}
"""Names of columns that are found without params.yaml; case, spaces and underscores do not count."""


class LabelRow(NamedTuple):
    """The row of one image in a table."""

    where: str
    """File and line, such as ``labels.csv line 3``."""
    image: str
    """Name or path as in the table."""
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
    header, rows = csv_rows(name, data)
    columns = {
        "image": _find_column(name, header, "image", labels.image),
        "class": _find_column(name, header, "class", labels.class_column),
        "split": None if isinstance(labels.file, dict) else _find_column(name, header, "split", labels.split),
        "group": _find_column(name, header, "group", labels.group),
    }
    count, unsplit = 0, 0
    for line, cells in rows:
        count += 1
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


def csv_rows(name: str, data: bytes) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header of a CSV, and its rows: the number of the line, and a cell for each column.

    Raises:
        UserError: the table is empty or not readable; while reading, a row with more cells than columns.
    """
    lines = _lines(name, data)
    header = next(lines, (0, []))[1]
    if not header:
        raise UserError(f"{name}: is empty; its first line must name the columns")

    def rows() -> Iterator[tuple[int, list[str]]]:
        for line, cells in lines:
            if extra := [cell for cell in cells[len(header) :] if cell.strip()]:
                raise UserError(
                    f"{name} line {line}: {extra[0]!r} is in no column: the line has {len(cells)} cells and "
                    f"the header {len(header)}; put cells that hold the separator in quotes"
                )
            yield line, (cells + [""] * len(header))[: len(header)]

    return header, rows()


def _lines(name: str, data: bytes) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is not blank; cells are text and stay as they are.

    The separator is the one of comma, semicolon, tab and bar that gives the first line most cells, or that
    Excel names in a line ``sep=;`` before it.
    """
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: is not in UTF-8 ({error.reason}); save it as CSV in UTF-8") from None
    if given := _EXCEL_SEPARATOR.match(text):
        separator, text = given[1], text[given.end() :]
    else:
        first = next((line for line in text.splitlines() if line.strip(_SEPARATORS + " ")), "")
        separator = max(_SEPARATORS, key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num + bool(given), cells
    except csv.Error as error:
        raise UserError(f"{name} line {reader.line_num}: not readable as CSV: {error}") from None


def _find_column(name: str, header: Sequence[str], kind: str, wanted: str | None) -> int | None:
    """Index of the column that params.yaml names, or else of the only one with a usual name.

    None for a split or group that params.yaml does not name and the table does not have.

    Raises:
        UserError: there is no such column, or several; the message names all columns.
    """
    seen = f"its columns are {some(map(repr, map(str.strip, header)), 20)}"
    if wanted is not None:
        found = [i for i, column in enumerate(header) if column.strip() == wanted.strip()]
        problem = f"no column {wanted!r}" if not found else f"several columns {wanted!r}"
    else:
        usual = _USUAL_NAMES.get(kind, "(?!)")
        found = [i for i, column in enumerate(header) if re.fullmatch(usual, _plain(column))]
        problem = f"{'several columns could be' if found else 'no column is recognized as'} the {kind}"
    if len(found) == 1:
        return found[0]
    if kind in ("split", "group") and wanted is None and not found:
        return None
    raise UserError(f"{name}: {problem}; {seen}; set dataset.labels.{kind}")


def _plain(column: str) -> str:
    return re.sub(r"[\W_]+", "", column.lower())


def read_layout(name: LabelLayout, content: Mapping[str, bytes]) -> Iterator[LabelRow]:
    """The rows of a known dataset.

    Args:
        content: the bytes of each of its files (``LAYOUT_FILES``).

    Raises:
        UserError: a file is damaged, or the files do not fit each other.
    """
    if name == "cub-200-2011":
        return _cub(content)
    if name == "stanford-cars":
        return _stanford_cars(content)
    return _aircraft(LAYOUT_FILES[name], content)


def _cub(content: Mapping[str, bytes]) -> Iterator[LabelRow]:
    """CUB-200-2011 (https://www.vision.caltech.edu/datasets/cub_200_2011/): lines of an id and its value.

    images.txt has paths below images/, image_class_labels.txt and classes.txt the class, train_test_split.txt
    1 for train and 0 for test.
    """
    images, class_ids, names, is_train = (
        dict(_pairs(name, content[name])) for name in LAYOUT_FILES["cub-200-2011"]
    )
    for number, path in images.items():
        try:
            class_name = names[class_ids[number]]
            split: SplitName = {"1": "train", "0": "test"}[is_train[number]]  # type: ignore[assignment]
        except KeyError:
            raise UserError(
                f"images.txt: image {number} has no class or no split; the files are of different versions"
            ) from None
        yield LabelRow(f"images.txt image {number}", f"images/{path}", class_name, split)


def _aircraft(files: Sequence[str], content: Mapping[str, bytes]) -> Iterator[LabelRow]:
    """FGVC-Aircraft (https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/): a file for each split.

    Each line is the number of an image below images/, a space, and the class, which may hold spaces.
    """
    splits: tuple[SplitName, ...] = ("train", "val", "test")
    for split, file in zip(splits, files, strict=True):
        for number, class_name in _pairs(file, content[file]):
            yield LabelRow(f"{file} image {number}", f"images/{number}.jpg", class_name, split)


def _pairs(file: str, data: bytes) -> Iterator[tuple[str, str]]:
    """The first word of each line, and the rest of the line."""
    for count, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
        first, _, rest = line.strip().partition(" ")
        if first and not rest:
            raise UserError(f"{file} line {count}: {line.strip()!r} is not a word, a space and a value")
        if first:
            yield first, rest.strip()


def _stanford_cars(content: Mapping[str, bytes]) -> Iterator[LabelRow]:
    """Stanford Cars (https://ai.stanford.edu/~jkrause/cars/car_dataset.html): MATLAB files of the devkit.

    ``class_names`` in cars_meta.mat, and in the others ``annotations`` with ``class``, from 1 on, and
    ``fname``, in cars_train/ or cars_test/.
    """
    meta, train, test = LAYOUT_FILES["stanford-cars"]
    names = [str(name) for name in _matlab(meta, content[meta], "class_names")]
    parts: tuple[tuple[SplitName, str], ...] = (("train", train), ("test", test))
    for split, file in parts:
        for count, entry in enumerate(_matlab(file, content[file], "annotations"), 1):
            try:
                number, image = int(entry["class"]), str(entry["fname"])
                class_name = names[number - 1] if number > 0 else ""
            except (KeyError, IndexError, ValueError, TypeError):
                raise UserError(
                    f"{file} entry {count}: has no class that {meta} names, or no fname"
                ) from None
            yield LabelRow(f"{file} entry {count}", f"cars_{split}/{image}", class_name, split)


def _matlab(file: str, data: bytes, variable: str) -> Any:
    """The entries of a variable in a MATLAB file: text, or records of text and numbers."""
    from scipy.io import loadmat  # slow to import, and rarely needed

    try:
        found = loadmat(io.BytesIO(data), simplify_cells=True)[variable]
    except KeyError:
        raise UserError(f"{file}: has no variable {variable}") from None
    except Exception as error:  # scipy raises a dozen types for damaged files
        raise UserError(f"{file}: not readable as a MATLAB file: {error}") from None
    return [found] if isinstance(found, (str, dict)) else found  # a single entry
