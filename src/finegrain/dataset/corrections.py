"""Drop images and change labels according to a table of corrections.

The splits are then assigned by the old labels, with the dropped images, so that a correction moves no other
image to another split.
"""

import dataclasses
import difflib
import itertools
import sqlite3
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from finegrain.core import local_files, log
from finegrain.core.errors import UserError, some
from finegrain.dataset.image_labels import normalized_path
from finegrain.dataset.inspection import Inspection
from finegrain.dataset.label_table import csv_rows

COLUMNS = ("path", "action", "class")


class Correction(NamedTuple):
    """The correction of one image, from one row."""

    where: str
    """File and line, such as ``corrections.csv line 3``."""
    class_name: str | None
    """The correct class; None means that the image is dropped."""


@dataclass(frozen=True)
class Corrections:
    """A table of corrections."""

    name: str
    """Name of the file."""
    rows: dict[str, Correction]
    """Correction of each image, by its path."""
    without_action: int
    """Number of rows without an action."""


@dataclass(frozen=True)
class AppliedCorrections:
    """The changes that the corrections made."""

    database: sqlite3.Connection
    name: str
    relabeled: int
    without_effect: int
    """Number of rows that give an image the class that it has, or a class to a bad image."""
    without_image: dict[str, str]
    """Path and reason of each row whose image does not exist."""
    without_action: int

    def rejected_rows(self) -> Iterator[tuple[str, str]]:
        """(path, reason) of the dropped images, then of the rows without an image."""
        dropped = self.database.execute("SELECT path, reason FROM dropped ORDER BY path")
        return itertools.chain(dropped, self.without_image.items())

    def metrics(self) -> dict[str, int]:
        """Counts for reports/<name>/split.json, once the splits are assigned."""

        def count(query: str) -> int:
            (number,) = self.database.execute(f"SELECT count(*) FROM {query}").fetchone()
            return int(number)

        return {
            "dropped": count("dropped"),
            "relabeled": self.relabeled,
            "test_dropped": count("dropped WHERE split = 'test'"),
            "test_relabeled": count("image WHERE split = 'test' AND class <> label"),
            "without_effect": self.without_effect,
            "without_image": len(self.without_image),
            "without_action": self.without_action,
        }

    def report(self) -> None:
        """Print the changes, once the splits are assigned."""
        counts = self.metrics()
        log.info(
            f"{self.name}: {counts['dropped']} images dropped, {counts['relabeled']} given another class; "
            f"{self.without_effect} rows change nothing, {counts['without_image']} name no image, "
            f"{self.without_action} have no action"
        )
        if changed := counts["test_dropped"] + counts["test_relabeled"]:
            log.info(
                f"{self.name} changes {changed} test images: earlier results are of another test set "
                "(`finegrain diff` compares the images that both have)"
            )


def read_corrections(file: Path) -> Corrections:
    """Read a CSV with the columns path, action (drop, relabel or nothing) and class; others are ignored.

    Raises:
        UserError: the file is missing or not such a table, a row is not complete, or two rows contradict each
            other.
    """
    try:
        header, lines = csv_rows(file.name, file.read_bytes())
    except FileNotFoundError:
        raise local_files.not_found("dataset.corrections", file) from None
    names = [name.strip().lower() for name in header]
    for column in COLUMNS:
        if names.count(column) != 1:
            raise UserError(
                f"{file.name}: needs one column {column!r}; its columns are {some(map(repr, names), 20)}"
            )
    rows: dict[str, Correction] = {}
    without_action = 0
    for line, cells in lines:
        where = f"{file.name} line {line}"
        path, action, class_name = (cells[names.index(column)].strip() for column in COLUMNS)
        if not action:
            without_action += 1
            continue
        if action.lower() not in ("drop", "relabel"):
            raise UserError(f"{where}: unknown action {action!r}; write drop or relabel, or leave it empty")
        is_dropped = action.lower() == "drop"
        if not path or not (class_name or is_dropped):
            raise UserError(f"{where}: has no {'class' if path else 'path'}")
        row = Correction(where, None if is_dropped else unicodedata.normalize("NFC", class_name))
        first = rows.setdefault(normalized_path(path), row)
        if first.class_name != row.class_name:
            raise UserError(f"{where}: says something else about {path} than line {first.where.split()[-1]}")
    return Corrections(file.name, rows, without_action)


def apply(corrections: Corrections, found: Inspection) -> tuple[Inspection, AppliedCorrections]:
    """Apply the corrections to the tables of an inspection.

    Returns:
        The inspection without the dropped images and the classes that have no image any more, and what was
        changed.

    Raises:
        UserError: a class does not exist, or no row names an image.
    """
    for row in corrections.rows.values():
        if row.class_name is not None and row.class_name not in found.classes:
            near = difflib.get_close_matches(row.class_name, found.classes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the classes are {some(found.classes, 20)}"
            raise UserError(f"{row.where}: there is no class {row.class_name!r}; {hint}")
    database = found.database
    missing, named = dict(corrections.rows), dict[str, Correction]()
    for (path,) in database.execute("SELECT path FROM image UNION ALL SELECT path FROM bad"):
        if (key := normalized_path(path)) in corrections.rows:
            named[path] = corrections.rows[key]
            missing.pop(key, None)
    if corrections.rows and not named:
        (example,) = database.execute("SELECT min(path) FROM image").fetchone()
        raise UserError(
            f"{corrections.name}: no row names an image; the first row names {min(missing)}, and the first "
            f"image is {example}"
        )
    before = _classes(database)
    dropped = [(path, f"dropped by {row.where}") for path, row in named.items() if row.class_name is None]
    changed = 0
    for path, row in named.items():
        if row.class_name is not None:
            query = "UPDATE image SET class = ? WHERE path = ? AND class <> ?"
            changed += database.execute(query, (row.class_name, path, row.class_name)).rowcount
    return _drop(dropped, found, before), AppliedCorrections(
        database,
        corrections.name,
        relabeled=changed,
        without_effect=len(named) - len(dropped) - changed,
        without_image={
            path: f"{row.where} names it, but there is no such image" for path, row in missing.items()
        },
        without_action=corrections.without_action,
    )


def _drop(rows: list[tuple[str, str]], found: Inspection, classes: set[str]) -> Inspection:
    """Move images, given with the reason, to the table ``dropped``.

    Args:
        classes: those that had images before any correction.
    """
    database = found.database
    database.executemany("INSERT INTO dropped (path, reason) VALUES (?, ?)", rows)
    database.executescript(
        """
        UPDATE dropped SET (label, split, sha256, phash) =
            (SELECT label, split, sha256, phash FROM image WHERE image.path = dropped.path);
        DELETE FROM image WHERE path IN (SELECT path FROM dropped);
        DELETE FROM bad WHERE path IN (SELECT path FROM dropped);
        """
    )
    counts: dict[str, Any] = {
        f"{kind}_count": database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for kind, table in (("good", "image"), ("bad", "bad"))
    }
    if gone := sorted(classes - (left := _classes(database))):
        log.info(f"classes that the corrections leave without an image: {some(gone, 20)}")
    if len(left) < 2:
        raise UserError(
            f"params.yaml: dataset.corrections: only one class is left ({some(left)}); two are needed"
        )
    return dataclasses.replace(found, classes=[name for name in found.classes if name not in gone], **counts)


def _classes(database: sqlite3.Connection) -> set[str]:
    """The classes of images that can be used."""
    return {name for (name,) in database.execute("SELECT DISTINCT class FROM image")}
