"""Open every image of an archive once: decode it, hash it, list the bad ones."""

import hashlib
import itertools
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import imagehash

from finegrain.core import log, parallel
from finegrain.core.errors import UserError
from finegrain.dataset import decoding, groups
from finegrain.sources import archive, index
from finegrain.sources.layout import ArchiveImage

_HASH_SIZE = 128
"""The perceptual hash uses 32 x 32 pixels, so that large JPEGs need not be decoded at full size for it."""

TABLES = (
    """
    CREATE TABLE image (
        path TEXT PRIMARY KEY, part TEXT, class TEXT, split TEXT,
        width INTEGER, height INTEGER, bytes INTEGER, sha256 TEXT, phash TEXT, label TEXT
    );
    CREATE TABLE bad (path TEXT, reason TEXT, split TEXT);
    CREATE TABLE dropped (
        path TEXT PRIMARY KEY, reason TEXT, label TEXT, split TEXT, sha256 TEXT, phash TEXT
    );
    CREATE VIEW labeled AS SELECT path, label, split, sha256, phash FROM image
        UNION ALL SELECT path, label, split, sha256, phash FROM dropped WHERE sha256 IS NOT NULL;
    CREATE TABLE duplicate (
        path TEXT PRIMARY KEY, reason TEXT, class TEXT, split TEXT, kept_class TEXT, kept_split TEXT
    );
    CREATE TABLE manifest (
        position INTEGER PRIMARY KEY, path TEXT, part TEXT, class TEXT, split TEXT,
        width INTEGER, height INTEGER, bytes INTEGER, sha256 TEXT, phash TEXT
    );
"""
    + groups.TABLES
)
"""``label`` is the class before ``corrections``, which take images to ``dropped``."""


@dataclass(frozen=True)
class Inspection:
    """The result of one pass over the images."""

    database: sqlite3.Connection
    """Tables ``image`` with the good images and ``bad`` with the others; the official split, or ''."""
    classes: list[str]
    """Sorted; includes classes whose images are all bad."""
    good_count: int
    bad_count: int

    def official_splits(self) -> set[str]:
        """The splits that the archive defines, also those whose images are all bad."""
        found = self.database.execute("SELECT split FROM labeled UNION SELECT split FROM bad")
        return {split for (split,) in found if split}

    def rejected_rows(self) -> Iterator[tuple[str, str]]:
        """(path, reason) of the bad images, sorted."""
        return self.database.execute("SELECT path, reason FROM bad ORDER BY path, reason")

    def reject_if_too_many_bad(self, max_ratio: float, rejected_csv: Path) -> None:
        """Stop the stage if more images are bad than ``split.max_bad_ratio`` allows.

        Args:
            rejected_csv: the file that lists them, for the message.

        Raises:
            UserError: more than ``max_ratio`` of the images are bad.
        """
        total = self.bad_count + self.good_count
        if self.bad_count > max_ratio * total:
            first = itertools.islice(self.rejected_rows(), 5)
            examples = "".join(f"\n  {path}: {reason}" for path, reason in first)
            raise UserError(
                f"{self.bad_count} of {total} images ({self.bad_count / total:.2%}) cannot be used, more "
                f"than split.max_bad_ratio ({max_ratio:.2%}). All are listed in {rejected_csv}; "
                f"the first:{examples}"
            )


def inspect_images(reader: archive.ArchiveReader) -> Inspection:
    """Open every image once, decode it completely, and hash it."""
    database = index.temp_table()
    database.executescript(TABLES)
    threads = os.cpu_count() or 1
    results = parallel.map_in_order(_inspect_image, reader.read(), threads, max_pending=4 * threads)
    bad_count = 0
    for image, result in log.progress_bar(results, total=len(reader), label="check images"):
        if isinstance(result, str):
            bad_count += 1
            database.execute("INSERT INTO bad VALUES (?, ?, ?)", (image.path, result, image.split or ""))
        else:
            row = (image.path, image.part, image.class_name, image.split or "", *result, image.class_name)
            database.execute("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    return Inspection(database, reader.classes, len(reader) - bad_count, bad_count)


def _inspect_image(
    item: tuple[ArchiveImage, bytes],
) -> tuple[ArchiveImage, tuple[int, int, int, str, str] | str]:
    """(width, height, bytes, sha256, phash) of one image, or why it cannot be used."""
    image, data = item
    try:
        rgb, (width, height) = decoding.decode_with_size(data, _HASH_SIZE)
    except decoding.BadImage as error:
        return image, str(error)
    return image, (width, height, len(data), hashlib.sha256(data).hexdigest(), str(imagehash.phash(rgb)))
