"""Which image belongs to which split: checks, hashes, duplicates, stratified assignment.

Images are rows of a temporary database, and what concerns them all is a query: memory stays the same
whatever their number. SQLite compares text as UTF-8 bytes, which is Python's order of strings.
"""

import csv
import itertools
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finegrain.core.errors import UserError
from finegrain.dataset.inspection import Inspection

SPLITS = ("train", "val", "test")
MAX_LISTED_PAIRS = 10_000


class ManifestRow(NamedTuple):
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


COLUMNS = tuple("class" if field == "class_name" else field for field in ManifestRow._fields)


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of a test image and a train or val image that look alike."""

    closest: NDArray[np.int64]
    """``[pairs, 3]``: differing bits, the places of both images in the manifest; at most MAX_LISTED_PAIRS."""
    pairs: int
    test_images: int


@dataclass(frozen=True)
class Manifest:
    inspected: Inspection
    exact_duplicates: int
    near: NearDuplicates
    official_split: str | None
    """Such as ``train/test``."""

    @property
    def table(self) -> sqlite3.Connection:
        return self.inspected.table

    def rows(self) -> Iterator[ManifestRow]:
        """Every image in use, sorted by split (train, val, test), class and path."""
        found = self.table.execute(f"SELECT {', '.join(COLUMNS)} FROM manifest ORDER BY place")
        return map(ManifestRow._make, found)

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


def read_manifest(file: Path) -> Iterator[ManifestRow]:
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
                yield ManifestRow(
                    path, part, class_name, split, int(width), int(height), int(size), sha256, phash
                )
    except FileNotFoundError:
        raise UserError(f"{file}: not found; `dvc repro split` makes it") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file}: not a manifest ({error}); run `dvc repro split` again") from None
