"""Groups of images that stay in one split, and the assignment of whole groups to test and val.

A unit is assigned as a whole: the copies of an image within a class and, with groups or near-duplicates, all
that these connect, directly or through others.
"""

import hashlib
import itertools
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finegrain.core.errors import UserError
from finegrain.dataset import near_duplicates

GroupOf = Callable[[str], str | None]
"""The group of an image by its path; None if it has none."""

TABLES = """
    CREATE TABLE grouped (path TEXT PRIMARY KEY, name TEXT);
    CREATE TABLE item (
        number INTEGER PRIMARY KEY, unit INTEGER, class TEXT, sha256 TEXT, phash TEXT, key BLOB
    );
    CREATE UNIQUE INDEX item_by_content ON item (class, sha256);
    CREATE TABLE unit (number INTEGER PRIMARY KEY, key BLOB);
    CREATE TABLE share (class TEXT, unit INTEGER, images INTEGER, PRIMARY KEY (class, unit)) WITHOUT ROWID;
    CREATE TABLE chosen (unit INTEGER PRIMARY KEY, split TEXT);
"""
"""``item``: one image of a class, without its copies; ``share``: number of a unit's items by class."""

_MAX_LINKS = 1_000_000
"""Pairs of linked items in memory before they are reduced to connected components."""


@dataclass(frozen=True)
class GroupCounts:
    """Numbers for reports/<name>/split.json."""

    count: int
    images_without: int
    """Images that belong to no group."""
    in_several_splits: int
    """Groups that official splits divide."""
    test_images_shared: int
    """Test images with a train or val image in their group."""


def path_groups(pattern: str) -> GroupOf:
    """Groups by ``split.group``: the first group of a regular expression, or else its whole match."""
    regex = re.compile(pattern)

    def group_of(path: str) -> str | None:
        found = regex.search(path)
        return found[min(1, regex.groups)] if found else None

    return group_of


def find_groups(database: sqlite3.Connection, group_of: GroupOf) -> None:
    """Fill the table ``grouped`` for the images that have a group.

    Raises:
        UserError: no image has one.
    """
    database.create_function("group_of", 1, group_of)
    database.execute(
        "INSERT INTO grouped SELECT path, group_of(path) FROM labeled WHERE group_of(path) <> ''"
    )
    if database.execute("SELECT count(*) FROM grouped").fetchone() == (0,):
        (example,) = database.execute("SELECT min(path) FROM image").fetchone()
        raise UserError(
            "params.yaml: no image has a group: split.group matches no path, or the column of "
            f"dataset.labels.group is empty; the first path is {example}"
        )


def count_groups(database: sqlite3.Connection) -> GroupCounts:
    """Count groups, and those that are in several splits."""
    query = """
        WITH place AS (SELECT name, split FROM grouped JOIN image USING (path))
        SELECT (SELECT count(DISTINCT name) FROM place),
            (SELECT count(*) FROM image) - (SELECT count(*) FROM place),
            (SELECT count(*) FROM (SELECT 1 FROM place GROUP BY name HAVING count(DISTINCT split) > 1)),
            (SELECT count(*) FROM place WHERE split = 'test'
                AND name IN (SELECT name FROM place WHERE split <> 'test'))
    """
    return GroupCounts(*database.execute(query).fetchone())


def order_key(seed: int, *content: str) -> bytes:
    """Sort key that gives a pseudo-random order by seed and content: class and SHA-256, or a group's name."""
    return hashlib.sha256("/".join([str(seed), *content]).encode()).digest()


def find_units(database: sqlite3.Connection, seed: int, max_bits: int | None = None) -> None:
    """Fill the tables ``item``, ``unit`` and ``share`` from the images outside official val and test splits.

    Classes are those before corrections, which move no other image to another split. The key of a unit is the
    lowest of its groups' and of its items' without a group.

    Args:
        max_bits: images whose hashes differ in at most this many bits belong together; None if they do not.
    """
    database.create_function("order_key", -1, lambda *content: order_key(seed, *content), deterministic=True)
    database.execute(
        """
        INSERT INTO item
        SELECT row_number() OVER ordered - 1, row_number() OVER ordered - 1, label, sha256, min(phash),
            order_key(label, sha256)
        FROM labeled WHERE split IN ('', 'train') GROUP BY label, sha256
        WINDOW ordered AS (ORDER BY label, sha256)
        """
    )
    is_grouped = database.execute("SELECT count(*) FROM grouped").fetchone() != (0,)
    if is_grouped:
        database.executescript(
            """
            CREATE TABLE member (item INTEGER, name TEXT, PRIMARY KEY (item, name)) WITHOUT ROWID;
            INSERT OR IGNORE INTO member
                SELECT number, name FROM grouped JOIN labeled USING (path)
                JOIN item ON item.class = label AND item.sha256 = labeled.sha256;
            UPDATE item SET key = (SELECT min(order_key(name)) FROM member WHERE item = number)
                WHERE number IN (SELECT item FROM member);
            """
        )
    if is_grouped or max_bits is not None:
        links = itertools.chain(_group_links(database, is_grouped), _near_links(database, max_bits))
        _connect(database, links)
    database.executescript(
        """
        INSERT INTO unit SELECT unit, min(key) FROM item GROUP BY unit;
        INSERT INTO share SELECT class, unit, count(*) FROM item GROUP BY class, unit;
        """
    )


def _group_links(database: sqlite3.Connection, is_grouped: bool) -> Iterator[NDArray[np.int64]]:
    """Pairs of an item and the first one of its group."""
    query = "SELECT item, min(item) OVER (PARTITION BY name) FROM member"
    rows = database.execute(query) if is_grouped else iter(())
    while batch := list(itertools.islice(rows, _MAX_LINKS)):
        yield np.array(batch, np.int64)


def _near_links(database: sqlite3.Connection, max_bits: int | None) -> Iterator[NDArray[np.int64]]:
    """Pairs of items whose hashes differ in at most ``max_bits``."""
    if max_bits is not None:
        rows = database.execute("SELECT phash FROM item ORDER BY number")
        hashes = np.fromiter((int(text, 16) for (text,) in rows), np.uint64)
        yield from near_duplicates.all_pairs(hashes, max_bits)


def _connect(database: sqlite3.Connection, links: Iterable[NDArray[np.int64]]) -> None:
    """Give all items that are linked, directly or through others, the same unit: the number of the first."""
    (count,) = database.execute("SELECT count(*) FROM item").fetchone()
    units = np.arange(count)
    pending = [np.empty((0, 2), np.int64)]
    for pairs in links:
        pending.append(pairs)
        if sum(map(len, pending)) > _MAX_LINKS:
            units, pending = _merge(units, np.concatenate(pending)), []
    units = _merge(units, np.concatenate(pending)) if pending else units
    numbers = ((unit, number) for number, unit in enumerate(units.tolist()) if unit != number)
    database.executemany("UPDATE item SET unit = ? WHERE number = ?", numbers)


def _merge(units: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first item connected to each item by its unit so far and by the pairs."""
    from scipy.sparse import coo_array  # slow to import, and not needed without groups
    from scipy.sparse.csgraph import connected_components

    own = np.column_stack([np.arange(len(units)), units])
    first, second = np.concatenate([own, pairs]).T
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(len(units), len(units)))
    component = connected_components(graph, directed=False)[1]
    return np.unique(component, return_index=True)[1][component]


def assign_units(database: sqlite3.Connection, val_ratio: float, test_ratio: float) -> None:
    """Fill the table ``chosen`` with the units of test and val; the others are train.

    Units are taken for test in the order of their keys, and for val in the reverse order, so that an image
    added later moves units at the two boundaries only. A unit is taken if that brings the sizes of its
    classes closer to the ratios; a class that got none then gets the unit that fits best. Each class keeps a
    unit for train, and one of three or more for val.
    """
    if test_ratio:
        _Filling(database, "test", test_ratio, "ASC", spare_units=2 if val_ratio else 1).run()
    if val_ratio:
        _Filling(database, "val", val_ratio, "DESC", spare_units=1).run()


def held_out_count(class_size: int, ratio: float) -> int:
    """Number of a class's images in a split of this ratio: at least one, or none if the ratio is 0."""
    return max(1, round(class_size * ratio)) if ratio else 0


class _Filling:
    """The choice of the units of one split."""

    def __init__(
        self, database: sqlite3.Connection, split: str, ratio: float, order: str, spare_units: int
    ) -> None:
        self._database, self._split, self._order = database, split, order
        sizes = database.execute("SELECT class, sum(images) FROM share GROUP BY class").fetchall()
        self._missing = {name: held_out_count(size, ratio) for name, size in sizes}
        """Images that each class still needs; negative if it has more than its ratio."""
        self._wanted = dict(self._missing)
        free = "SELECT class, count(*) FROM share WHERE unit NOT IN (SELECT unit FROM chosen) GROUP BY class"
        self._free = dict.fromkeys(self._missing, 0) | dict(database.execute(free).fetchall())
        """Units of each class that are in no split."""
        self._spare = {name: spare_units if count > spare_units else 1 for name, count in self._free.items()}

    def run(self) -> None:
        for unit, images in self._units():
            if self._may_take(images) and self._change(images) < 0:
                self._take(unit, images)
        empty = [name for name, count in self._missing.items() if count == self._wanted[name]]
        for name in sorted(empty, key=lambda name: (self._free[name], name)):
            if self._missing[name] == self._wanted[name]:  # not filled by the unit of another class
                where = "AND number IN (SELECT unit FROM share WHERE class = ?)"
                units = [unit for unit in self._units(where, name) if self._may_take(unit[1])]
                if units:
                    self._take(*min(units, key=lambda unit: self._change(unit[1])))

    def _units(self, where: str = "", *values: str) -> Iterator[tuple[int, Mapping[str, int]]]:
        """The units that are in no split, each with its number of images by class, in order."""
        rows = self._database.execute(
            f"""
            SELECT number, share.class, images FROM unit JOIN share ON unit = number
            WHERE number NOT IN (SELECT unit FROM chosen) {where}
            ORDER BY key {self._order}, number, share.class
            """,
            values,
        )
        for unit, shares in itertools.groupby(rows, key=lambda row: row[0]):
            yield unit, {name: images for _, name, images in shares}

    def _may_take(self, images: Mapping[str, int]) -> bool:
        return all(self._free[name] > self._spare[name] for name in images)

    def _change(self, images: Mapping[str, int]) -> float:
        """Change of the relative distance to the wanted numbers of images, summed over the classes."""
        missing, wanted = self._missing, self._wanted
        return sum((abs(missing[c] - n) - abs(missing[c])) / wanted[c] for c, n in images.items())

    def _take(self, unit: int, images: Mapping[str, int]) -> None:
        self._database.execute("INSERT INTO chosen VALUES (?, ?)", (unit, self._split))
        for name, count in images.items():
            self._missing[name] -= count
            self._free[name] -= 1
