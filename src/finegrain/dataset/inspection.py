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
from finegrain.dataset import decoding
from finegrain.sources import archive, temp_table
from finegrain.sources.layout import ArchiveImage

_HASH_SIZE = 128
"""The perceptual hash looks at 32 x 32 pixels: large JPEGs need not be decoded at full size for it."""

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
class Inspection:
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


def inspect_images(reader: archive.ArchiveReader) -> Inspection:
    """Open every image once, decode it fully, and hash it."""
    table = temp_table.create()
    table.executescript(TABLES)
    threads = os.cpu_count() or 1
    found = parallel.map_in_order(_inspect_image, reader.read(), threads, ahead=4 * threads)
    bad = 0
    for image, result in log.progress_bar(found, total=len(reader), label="check images"):
        if isinstance(result, str):
            bad += 1
            table.execute("INSERT INTO bad VALUES (?, ?)", (image.path, result))
        else:
            facts = (image.path, image.part, image.class_name, image.split or "", *result)
            table.execute("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", facts)
    return Inspection(table, reader.classes, len(reader) - bad, bad)


def _inspect_image(
    item: tuple[ArchiveImage, bytes],
) -> tuple[ArchiveImage, tuple[int, int, int, str, str] | str]:
    """(width, height, bytes, sha256, phash) of one image, or why it cannot be used."""
    image, data = item
    try:
        pixels, (width, height) = decoding.decode_with_size(data, _HASH_SIZE)
    except decoding.BadImage as error:
        return image, str(error)
    return image, (width, height, len(data), hashlib.sha256(data).hexdigest(), str(imagehash.phash(pixels)))
