"""The manifest: which images are used, and the split of each.

Images are rows of a temporary database, and whatever concerns all of them is a query: memory does not grow
with their number. SQLite compares text as UTF-8 bytes, which is Python's order of strings.
"""

import csv
import dataclasses
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
from finegrain.dataset.groups import GroupCounts
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
    """Pairs of a test image and a train or val image that look almost the same."""

    closest: NDArray[np.int64]
    """``[pairs, 3]``: differing bits, manifest position of the test image and of the other one, closest
    first; at most ``MAX_LISTED_PAIRS``."""
    pair_count: int
    """Number of all pairs, also of those not listed."""
    test_image_count: int
    """Number of test images with at least one near-duplicate."""


@dataclass(frozen=True)
class Manifest:
    """The images in use with their splits, and the images left out."""

    inspection: Inspection
    exact_duplicate_count: int
    near_duplicates: NearDuplicates
    official_split: str | None
    """Such as ``train/test``; None if the archive has no official splits."""
    groups: GroupCounts | None = None
    """None if the images have no groups."""

    @property
    def _database(self) -> sqlite3.Connection:
        return self.inspection.database

    def rows(self) -> Iterator[ManifestRow]:
        """Every image in use, sorted by split (train, val, test), class and path."""
        rows = self._database.execute(f"SELECT {', '.join(COLUMNS)} FROM manifest ORDER BY position")
        return map(ManifestRow._make, rows)

    def rejected_rows(self) -> Iterator[tuple[str, str]]:
        """(path, reason) of the bad images, then of the exact duplicates left out."""
        duplicates = self._database.execute("SELECT path, reason FROM duplicate ORDER BY path")
        return itertools.chain(self.inspection.rejected_rows(), duplicates)

    def near_duplicate_rows(self) -> Iterator[tuple[str, str, int]]:
        """(test path, other path, differing bits), closest first."""
        query = "SELECT path FROM manifest WHERE position = ?"
        for bits, test, other in self.near_duplicates.closest.tolist():
            (test_path,), (other_path,) = (
                self._database.execute(query, (position,)).fetchone() for position in (test, other)
            )
            yield test_path, other_path, bits

    def class_balance_rows(self) -> list[tuple[str, str, int]]:
        """(class, split, number of images), zeros included."""
        query = "SELECT class, split, count(*) FROM manifest GROUP BY class, split"
        counts = {(name, split): count for name, split, count in self._database.execute(query)}
        names = sorted({name for name, _ in counts})
        return [(name, split, counts.get((name, split), 0)) for name in names for split in SPLITS]

    def metrics(self) -> dict[str, Any]:
        """Counts for reports/<name>/split.json."""
        balance = self.class_balance_rows()
        class_sizes: Counter[str] = Counter()
        split_sizes: Counter[str] = Counter()
        for name, split, count in balance:
            class_sizes[name] += count
            split_sizes[split] += count
        return {
            "images": {name: split_sizes[name] for name in SPLITS},
            "classes": len(class_sizes),
            "classes_without_val": sum(split == "val" and count == 0 for _, split, count in balance),
            "classes_without_test": sum(split == "test" and count == 0 for _, split, count in balance),
            "official_split": self.official_split,
            "rejected": self.inspection.bad_count,
            "exact_duplicates_left_out": self.exact_duplicate_count,
            "near_duplicates": self.near_duplicates.pair_count,
            "test_images_with_near_duplicate": self.near_duplicates.test_image_count,
            "groups": None if self.groups is None else dataclasses.asdict(self.groups),
            "smallest_class": min(class_sizes.values()),
            "largest_class": max(class_sizes.values()),
        }


def read_manifest(file: Path) -> Iterator[ManifestRow]:
    """Read the rows of a manifest file one by one.

    Raises:
        UserError: the file is missing or not a manifest.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream)
            columns = tuple(next(lines, ()))
            if columns != COLUMNS:
                raise UserError(f"{file}: unexpected columns {list(columns)}; run `dvc repro split` again")
            for path, part, class_name, split, width, height, size, sha256, phash in lines:
                if split not in SPLITS:
                    raise ValueError(f"split {split!r}")
                yield ManifestRow(
                    path, part, class_name, split, int(width), int(height), int(size), sha256, phash
                )
    except FileNotFoundError:
        raise UserError(f"{file}: not found; run `dvc repro split`") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file}: not a manifest ({error}); run `dvc repro split` again") from None
