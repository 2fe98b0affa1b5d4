"""Which image belongs to which split: checks, hashes, duplicates, stratified assignment.

Images are rows of a temporary database, and what concerns them all is a query: memory stays the same
whatever their number. SQLite compares text as UTF-8 bytes, which is Python's order of strings.
"""

import csv
import hashlib
import itertools
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import imagehash
import numpy as np
from numpy.typing import NDArray

from finegrain import near, params, picture, record, rows
from finegrain.errors import UserError
from finegrain.sources import archive
from finegrain.sources.folders import Image

SPLITS = ("train", "val", "test")
MAX_LISTED_PAIRS = 10_000

_HASH_SIDE = 128
"""The perceptual hash looks at 32 x 32 pixels: large JPEGs need not be decoded at full size for it."""


class Row(NamedTuple):
    """One image in use."""

    path: str
    part: str
    class_name: str
    split: str
    width: int
    height: int
    bytes: int
    sha256: str
    phash: str


COLUMNS = tuple("class" if field == "class_name" else field for field in Row._fields)

TABLES = """
    CREATE TABLE image (
        path TEXT PRIMARY KEY, part TEXT, class TEXT, split TEXT,
        width INTEGER, height INTEGER, bytes INTEGER, sha256 TEXT, phash TEXT
    );
    CREATE TABLE bad (path TEXT, reason TEXT);
    CREATE TABLE duplicate (path TEXT PRIMARY KEY, reason TEXT);
    CREATE TABLE manifest (
        place INTEGER PRIMARY KEY, path TEXT, part TEXT, class TEXT, split TEXT,
        width INTEGER, height INTEGER, bytes INTEGER, sha256 TEXT, phash TEXT
    );
"""


@dataclass(frozen=True)
class Inspected:
    """What one pass over the images found."""

    table: sqlite3.Connection
    """Its ``image`` holds the good ones, split the official one or empty; its ``bad`` the others."""
    classes: list[str]
    """Sorted; includes those whose images are all bad."""
    good: int
    bad: int

    def rejected(self) -> Iterator[tuple[str, str]]:
        """(path, reason) of the bad ones, sorted."""
        return self.table.execute("SELECT path, reason FROM bad ORDER BY path, reason")

    def refuse_many_bad(self, max_ratio: float, listed_in: Path) -> None:
        """Stop if more images are bad than the user has allowed."""
        total = self.bad + self.good
        if self.bad > max_ratio * total:
            some = itertools.islice(self.rejected(), 5)
            first = "".join(f"\n  {path}: {reason}" for path, reason in some)
            raise UserError(
                f"{self.bad} of {total} images ({self.bad / total:.2%}) cannot be used; split.max_bad_ratio "
                f"allows {max_ratio:.2%}. All are listed in {listed_in}; the first ones:{first}"
            )


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of a test image and a train or val image that look alike."""

    closest: NDArray[np.int64]
    """``[pairs, 3]``: differing bits, the places of both images in the manifest; at most MAX_LISTED_PAIRS."""
    pairs: int
    test_images: int


@dataclass(frozen=True)
class Manifest:
    inspected: Inspected
    exact_duplicates: int
    near: NearDuplicates
    official_split: str | None
    """Such as ``train/test``."""

    @property
    def table(self) -> sqlite3.Connection:
        return self.inspected.table

    def rows(self) -> Iterator[Row]:
        """Every image in use, sorted by split (train, val, test), class and path."""
        found = self.table.execute(f"SELECT {', '.join(COLUMNS)} FROM manifest ORDER BY place")
        return map(Row._make, found)

    def rejected(self) -> Iterator[tuple[str, str]]:
        """(path, reason) of the bad images, then of the exact duplicates left out."""
        duplicates = self.table.execute("SELECT path, reason FROM duplicate ORDER BY path")
        return itertools.chain(self.inspected.rejected(), duplicates)

    def near_duplicates(self) -> Iterator[tuple[str, str, int]]:
        """(test path, other path, differing bits), closest first."""
        path = "SELECT path FROM manifest WHERE place = ?"
        for bits, test, other in self.near.closest.tolist():
            (test_path,), (other_path,) = (
                self.table.execute(path, (place,)).fetchone() for place in (test, other)
            )
            yield test_path, other_path, bits

    def balance(self) -> list[tuple[str, str, int]]:
        """(class, split, images), zeros included."""
        found = self.table.execute("SELECT class, split, count(*) FROM manifest GROUP BY class, split")
        counts = {(name, split): images for name, split, images in found}
        names = sorted({name for name, _ in counts})
        return [(name, split, counts.get((name, split), 0)) for name in names for split in SPLITS]

    def metrics(self) -> dict[str, Any]:
        balance = self.balance()
        sizes: Counter[str] = Counter()
        in_split: Counter[str] = Counter()
        for name, split, images in balance:
            sizes[name] += images
            in_split[split] += images
        untested = sum(split == "test" and images == 0 for _, split, images in balance)
        return {
            "images": {name: in_split[name] for name in SPLITS},
            "classes": len(sizes),
            "classes_without_test": untested,
            "official_split": self.official_split,
            "rejected": self.inspected.bad,
            "exact_duplicates_left_out": self.exact_duplicates,
            "near_duplicates": self.near.pairs,
            "test_images_with_near_duplicate": self.near.test_images,
            "smallest_class": min(sizes.values()),
            "largest_class": max(sizes.values()),
        }


def inspect(reader: archive.Reader) -> Inspected:
    """Open every image once, decode it fully, and hash it."""
    table = rows.temporary()
    table.executescript(TABLES)
    threads = os.cpu_count() or 1
    found = record.in_order(_inspect_one, reader.read(), threads, ahead=4 * threads)
    bad = 0
    for image, result in record.progress(found, total=len(reader), label="check images"):
        if isinstance(result, str):
            bad += 1
            table.execute("INSERT INTO bad VALUES (?, ?)", (image.path, result))
        else:
            facts = (image.path, image.part, image.class_name, image.split or "", *result)
            table.execute("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", facts)
    return Inspected(table, reader.classes, len(reader) - bad, bad)


def _inspect_one(
    item: tuple[Image, bytes],
) -> tuple[Image, tuple[int, int, int, str, str] | str]:
    """(width, height, bytes, sha256, phash) of one image, or why it cannot be used."""
    image, data = item
    try:
        pixels, (width, height) = picture.decode_with_size(data, _HASH_SIDE)
    except picture.BadImage as error:
        return image, str(error)
    return image, (width, height, len(data), hashlib.sha256(data).hexdigest(), str(imagehash.phash(pixels)))


def build(inspected: Inspected, split: params.Split, seed: int) -> Manifest:
    """Assign every good image to train, val or test.

    Official folders are kept; what the archive does not have (val, test or both) is taken out of its train
    images, class by class. Of exact duplicates that are in two splits or two classes one is kept.

    Raises:
        UserError: classes with too few images; all of them are named.
    """
    table = inspected.table
    named = {name for (name,) in table.execute("SELECT DISTINCT split FROM image")}
    official = [name for name in SPLITS if name in named]
    duplicates = _leave_out_duplicates(table)
    val_ratio = 0.0 if "val" in official else split.val_ratio
    test_ratio = 0.0 if "test" in official else split.test_ratio
    _refuse_small(inspected, val_ratio, test_ratio)
    _assign(table, val_ratio, test_ratio, seed)
    pairs = _near_duplicates_of(table, split.near_duplicate_bits)
    return Manifest(inspected, duplicates, pairs, "/".join(official) or None)


def _leave_out_duplicates(table: sqlite3.Connection) -> int:
    """Keep each file's bytes in one split and one class only: test before val before train, then by path.

    Repeats within one split and class stay, so that an official test folder remains comparable.

    Returns:
        How many images were moved from ``image`` to ``duplicate``.
    """
    table.executescript(
        """
        INSERT INTO duplicate
        SELECT path, 'same bytes as ' || first_path || CASE
            WHEN split <> first_split THEN ' in ' || first_split ELSE ' of class ' || first_class END
        FROM (
            SELECT path, split, class, first_value(path) OVER same AS first_path,
                first_value(split) OVER same AS first_split, first_value(class) OVER same AS first_class
            FROM image
            WINDOW same AS (
                PARTITION BY sha256 ORDER BY CASE split WHEN 'test' THEN 0 WHEN 'val' THEN 1 ELSE 2 END, path
            )
        )
        WHERE split <> first_split OR class <> first_class;

        DELETE FROM image WHERE path IN (SELECT path FROM duplicate);
        """
    )
    return table.execute("SELECT count(*) FROM duplicate").fetchone()[0]


def _refuse_small(inspected: Inspected, val_ratio: float, test_ratio: float) -> None:
    """Refuse classes with too few different images to divide."""
    different = dict(
        inspected.table.execute(
            "SELECT class, count(DISTINCT sha256) FROM image WHERE split IN ('', 'train') GROUP BY class"
        ).fetchall()
    )
    needed = fewest(val_ratio, test_ratio)
    counts = {name: different.get(name, 0) for name in inspected.classes}
    small = [
        f"'{name}' {images}"
        for name, images in counts.items()
        if images < needed or images - cut(images, val_ratio) - cut(images, test_ratio) < 1
    ]
    if small:
        raise UserError(
            f"classes with too few images to divide: {', '.join(small)}; at least {needed} different ones "
            "are needed in each. Add images, or leave those classes out"
        )


def _assign(table: sqlite3.Connection, val_ratio: float, test_ratio: float, seed: int) -> None:
    """Divide the images that are not in an official val or test; fill ``manifest``."""

    def split_of(place: int, images: int) -> str:
        return split_at(place, images, val_ratio, test_ratio)

    def key_of(class_name: str, digest: str) -> bytes:
        return order_key(seed, class_name, digest)

    table.create_function("split_of", 2, split_of, deterministic=True)
    table.create_function("key_of", 2, key_of, deterministic=True)
    table.executescript(
        """
        CREATE TABLE divided (class TEXT, sha256 TEXT, split TEXT, PRIMARY KEY (class, sha256)) WITHOUT ROWID;
        INSERT INTO divided
        SELECT class, sha256, split_of(
            row_number() OVER (PARTITION BY class ORDER BY key_of(class, sha256)) - 1,
            count(*) OVER (PARTITION BY class)
        )
        FROM (SELECT DISTINCT class, sha256 FROM image WHERE split IN ('', 'train'));

        UPDATE image SET split =
            (SELECT split FROM divided WHERE divided.class = image.class AND divided.sha256 = image.sha256)
        WHERE split IN ('', 'train');

        INSERT INTO manifest
        SELECT row_number() OVER (
            ORDER BY CASE split WHEN 'train' THEN 0 WHEN 'val' THEN 1 ELSE 2 END, class, path
        ) - 1, * FROM image;
        """
    )


def order_key(seed: int, class_name: str, digest: str) -> bytes:
    """Gives the images of a class an order of their own, by seed, class and content."""
    return hashlib.sha256(f"{seed}/{class_name}/{digest}".encode()).digest()


def split_at(place: int, images: int, val_ratio: float, test_ratio: float) -> str:
    """The split of the image at this place of its class's order.

    Test is cut off the front and val off the back, so an image added later moves at most one other across
    each cut.
    """
    if place < cut(images, test_ratio):
        return "test"
    return "train" if place < images - cut(images, val_ratio) else "val"


def cut(images: int, ratio: float) -> int:
    """How many of a class's images make up this share: at least one, unless no share is asked for."""
    return max(1, round(images * ratio)) if ratio else 0


def fewest(val_ratio: float, test_ratio: float) -> int:
    """The smallest class that leaves an image to each split."""
    return next(n for n in itertools.count(1) if n - cut(n, val_ratio) - cut(n, test_ratio) >= 1)


def _near_duplicates_of(table: sqlite3.Connection, max_bits: int) -> NearDuplicates:
    """Compare the test images, which stand last in the manifest, with all others."""
    total, others = table.execute("SELECT count(*), sum(split <> 'test') FROM manifest").fetchone()
    found = table.execute("SELECT phash FROM manifest ORDER BY place")
    hashes = np.fromiter((int(text, 16) for (text,) in found), np.uint64, total)
    closest, pairs, tested = near.closest_pairs(hashes[others:], hashes[:others], max_bits, MAX_LISTED_PAIRS)
    closest[:, 1] += others
    return NearDuplicates(closest, pairs, tested)


def read(file: Path) -> Iterator[Row]:
    """The rows of a written manifest, one by one.

    Raises:
        UserError: no such file, or not a manifest.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream)
            columns = tuple(next(lines, ()))
            if columns != COLUMNS:
                raise UserError(f"{file}: has columns {list(columns)}; run `dvc repro split` again")
            for path, part, class_name, split, width, height, size, sha256, phash in lines:
                if split not in SPLITS:
                    raise ValueError(f"split {split!r}")
                yield Row(path, part, class_name, split, int(width), int(height), int(size), sha256, phash)
    except FileNotFoundError:
        raise UserError(f"{file}: not found; `dvc repro split` makes it") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file}: not a manifest ({error}); run `dvc repro split` again") from None
