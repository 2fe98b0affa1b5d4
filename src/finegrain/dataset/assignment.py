"""Assign images to train, val and test: exact duplicates, stratified splits, near-duplicates."""

import hashlib
import itertools
import sqlite3

import numpy as np

from finegrain.config import params
from finegrain.core.errors import UserError
from finegrain.dataset import near_duplicates
from finegrain.dataset.inspection import Inspection
from finegrain.dataset.manifest import MAX_LISTED_PAIRS, SPLITS, Manifest, NearDuplicates


def assign_splits(inspected: Inspection, split: params.SplitParams, seed: int) -> Manifest:
    """Assign every good image to train, val or test.

    Official folders are kept; what the archive does not have (val, test or both) is taken out of its train
    images, class by class. Of exact duplicates that are in two splits or two classes one is kept.

    Raises:
        UserError: classes with too few images; all of them are named.
    """
    table = inspected.table
    named = {name for (name,) in table.execute("SELECT DISTINCT split FROM image")}
    official = [name for name in SPLITS if name in named]
    duplicates = _exclude_duplicates(table)
    val_ratio = 0.0 if "val" in official else split.val_ratio
    test_ratio = 0.0 if "test" in official else split.test_ratio
    _reject_small_classes(inspected, val_ratio, test_ratio)
    _assign(table, val_ratio, test_ratio, seed)
    pairs = _find_near_duplicates(table, split.near_duplicate_bits)
    return Manifest(inspected, duplicates, pairs, "/".join(official) or None)


def _exclude_duplicates(table: sqlite3.Connection) -> int:
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


def _reject_small_classes(inspected: Inspection, val_ratio: float, test_ratio: float) -> None:
    """Refuse classes with too few different images to divide."""
    different = dict(
        inspected.table.execute(
            "SELECT class, count(DISTINCT sha256) FROM image WHERE split IN ('', 'train') GROUP BY class"
        ).fetchall()
    )
    needed = min_class_size(val_ratio, test_ratio)
    counts = {name: different.get(name, 0) for name in inspected.classes}
    small = [
        f"'{name}' {images}"
        for name, images in counts.items()
        if images < needed
        or images - held_out_count(images, val_ratio) - held_out_count(images, test_ratio) < 1
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
    if place < held_out_count(images, test_ratio):
        return "test"
    return "train" if place < images - held_out_count(images, val_ratio) else "val"


def held_out_count(images: int, ratio: float) -> int:
    """How many of a class's images make up this share: at least one, unless no share is asked for."""
    return max(1, round(images * ratio)) if ratio else 0


def min_class_size(val_ratio: float, test_ratio: float) -> int:
    """The smallest class that leaves an image to each split."""
    return next(
        n for n in itertools.count(1) if n - held_out_count(n, val_ratio) - held_out_count(n, test_ratio) >= 1
    )


def _find_near_duplicates(table: sqlite3.Connection, max_bits: int) -> NearDuplicates:
    """Compare the test images, which stand last in the manifest, with all others."""
    total, others = table.execute("SELECT count(*), sum(split <> 'test') FROM manifest").fetchone()
    found = table.execute("SELECT phash FROM manifest ORDER BY place")
    hashes = np.fromiter((int(text, 16) for (text,) in found), np.uint64, total)
    closest, pairs, tested = near_duplicates.closest_pairs(
        hashes[others:], hashes[:others], max_bits, MAX_LISTED_PAIRS
    )
    closest[:, 1] += others
    return NearDuplicates(closest, pairs, tested)
