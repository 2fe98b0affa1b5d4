"""Match the rows of a table of labels with the images of an archive."""

import itertools
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from finegrain.config.dataset import LabelParams, SplitName
from finegrain.core import log
from finegrain.core.errors import UserError, some
from finegrain.dataset import label_table
from finegrain.dataset.label_table import LabelRow
from finegrain.sources import index, layout

_TABLES = """
    CREATE TABLE image (path TEXT PRIMARY KEY, reversed TEXT);
    CREATE INDEX by_reversed ON image (reversed);
    CREATE TABLE entry (place TEXT, image TEXT, class TEXT, split TEXT, name TEXT);
    CREATE TABLE label (path TEXT PRIMARY KEY, class TEXT, split TEXT, name TEXT, place TEXT);
    CREATE TABLE unmatched (image TEXT, place TEXT);
"""


def read_rows(labels: LabelParams, content: Mapping[str, bytes]) -> Iterator[LabelRow]:
    """The rows of all files with labels.

    Args:
        content: the bytes of each of ``labels.file_names``.

    Raises:
        UserError: a file is not readable, lacks a column, or does not fit the others.
    """
    if labels.layout:
        yield from label_table.read_layout(labels.layout, content)
    elif isinstance(labels.file, dict):
        for split, name in labels.file.items():
            yield from (
                row._replace(split=split) for row in label_table.read_csv(name, content[name], labels)
            )
    else:
        for name in labels.file_names:
            yield from label_table.read_csv(name, content[name], labels)


class ImageLabels:
    """Class, official split and group of each image that a table names.

    A row fits an image if its path is that of the image, or the end of it from a folder on. What may differ:
    the folders with which all rows begin, ``./``, backslashes, Unicode's form of accents, the case of the
    extension; and the extension may be missing. All rows and images are in a temporary database.

    Raises:
        UserError: no row fits, a row fits several images, an image has two labels, or the classes cannot
            be used.
    """

    def __init__(self, rows: Iterable[LabelRow], paths: Iterable[str]) -> None:
        self._database = index.temp_table()
        self._database.executescript(_TABLES)
        reversed_stems = ((path, _stem(normalized_path(path))[::-1]) for path in paths)
        self._database.executemany("INSERT INTO image VALUES (?, ?)", reversed_stems)
        cells = (
            (row.where, normalized_path(row.image), _composed(row.class_name), row.split or "", row.group)
            for row in rows
        )
        self._database.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", cells)
        self._shared = _shared_folders(self._column("image", "path"))
        self._match_rows()
        splits: dict[str, set[str]] = {}
        for name, split in self._database.execute(
            "SELECT DISTINCT class, split FROM label WHERE class <> ''"
        ):
            splits.setdefault(name, set()).add(split or "train")
        layout.reject_classes(splits)
        self.classes = sorted(splits)
        self.images_without_label = self._count("image") - self._count("label", "class <> ''")
        self.labels_without_image = self._count("unmatched")
        log.info(
            f"labels: {self._count('label')} images of {len(splits)} classes; {self.images_without_label} "
            f"images without a label are left out, {self.labels_without_image} rows fit no image"
        )

    def parse(self, path: str) -> tuple[SplitName | None, str] | None:
        """Official split and class of an image; None if no row names it or its row has no class."""
        query = "SELECT split, class FROM label WHERE path = ? AND class <> ''"
        found = self._database.execute(query, (path,)).fetchone()
        return (found[0] or None, found[1]) if found else None

    def group(self, path: str) -> str | None:
        """The group of an image, if it has one."""
        found = self._database.execute("SELECT name FROM label WHERE path = ?", (path,)).fetchone()
        return found[0] or None if found else None

    def unmatched(self) -> Iterator[tuple[str, str]]:
        """Path and reason of each image without a label and each row without an image."""
        yield from self._database.execute(
            """
            SELECT image.path, CASE WHEN place IS NULL THEN 'no row of the table names it'
                ELSE place || ' gives no class' END
            FROM image LEFT JOIN label USING (path) WHERE coalesce(class, '') = '' ORDER BY 1
            """
        )
        yield from self._database.execute(
            "SELECT image, place || ' names it, but there is no such image' FROM unmatched ORDER BY rowid"
        )

    def _match_rows(self) -> None:
        """Fill the table ``label``; the rows' shared folders are dropped one by one until a row fits."""
        dropped = _shared_folders(self._column("entry", "image"))
        conflicts: list[str] = []
        for count in range(len(dropped) + 1):
            self._database.execute("DELETE FROM unmatched")
            skipped = len("".join(f"{folder}/" for folder in dropped[:count]))
            for place, image, *label in self._database.execute("SELECT * FROM entry ORDER BY rowid"):
                path = self._find(image[skipped:], place)
                if path is None:
                    self._database.execute("INSERT INTO unmatched VALUES (?, ?)", (image, place))
                elif conflict := self._add(path, label, place):
                    conflicts.append(conflict)
            if self._count("label"):
                break
        else:
            rows = ", ".join(itertools.islice(self._column("entry", "image"), 3))
            images = ", ".join(itertools.islice(self._column("image", "path"), 3))
            raise UserError(
                f"params.yaml: dataset.labels: no row names an image; the first rows name {rows}; the first "
                f"images are {images}"
            )
        if conflicts:
            raise UserError(f"params.yaml: dataset.labels: rows contradict each other: {some(conflicts)}")

    def _find(self, name: str, place: str) -> str | None:
        """The image that a name fits; paths are compared from their ends."""
        if not name:
            return None
        stem = _stem(name)[::-1]
        query = "SELECT path FROM image WHERE reversed = ? OR reversed > ? || '/' AND reversed < ? || '0'"
        suffix = name[len(stem) :].lower()
        fitting = [
            path
            for (path,) in self._database.execute(query, (stem, stem, stem))
            if not suffix or path.lower().endswith(suffix)
        ]
        whole = normalized_path("/".join([*self._shared, name]))
        for exact in (name, whole):
            if len(fitting) > 1:
                fitting = [path for path in fitting if normalized_path(path) == exact] or fitting
        if len(fitting) > 1:
            listed = some(sorted(fitting))
            raise UserError(f"{place}: {name} fits {len(fitting)} images ({listed}); write more of the path")
        return fitting[0] if fitting else None

    def _add(self, path: str, label: list[str], place: str) -> str | None:
        """Give an image a label; returns what contradicts it, if something does."""
        query = "SELECT class, split, name, place FROM label WHERE path = ?"
        *first, first_place = self._database.execute(query, (path,)).fetchone() or (None,)
        if first_place is None:
            self._database.execute("INSERT INTO label VALUES (?, ?, ?, ?, ?)", (path, *label, place))
        elif first != label:
            kind = next(i for i in range(len(label)) if first[i] != label[i])
            what = ("class", "split", "group")[kind]
            return f"{path} ({what} {first[kind]!r} in {first_place}, {label[kind]!r} in {place})"
        return None

    def _column(self, table: str, column: str) -> Iterator[str]:
        return (value for (value,) in self._database.execute(f"SELECT {column} FROM {table} ORDER BY rowid"))

    def _count(self, table: str, where: str = "TRUE") -> int:
        count: int = self._database.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()[0]
        return count


def _composed(text: str) -> str:
    """The text with each accent in one character with its letter (Unicode's NFC)."""
    return unicodedata.normalize("NFC", text)


def normalized_path(path: str) -> str:
    """A path with forward slashes, without empty and ``.`` parts."""
    parts = _composed(path).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _stem(path: str) -> str:
    """A path without the extension of an image; any other ending belongs to the name."""
    return os.path.splitext(path)[0] if path.lower().endswith(layout.IMAGE_SUFFIXES) else path


def _shared_folders(paths: Iterable[str]) -> list[str]:
    """The folders with which all these paths begin."""
    shared: list[str] | None = None
    for path in paths:
        folders = path.split("/")[:-1]
        shared = folders if shared is None else list(os.path.commonprefix([shared, folders]))
    return shared or []
