"""Assign images to train, val and test: exact duplicates, stratified splits, near-duplicates."""

import hashlib
import itertools
import sqlite3

import numpy as np

from finegrain.config import params
from finegrain.core import log
from finegrain.core.errors import UserError
from finegrain.dataset import near_duplicates
from finegrain.dataset.inspection import Inspection
from finegrain.dataset.manifest import MAX_LISTED_PAIRS, SPLITS, Manifest, NearDuplicates


def assign_splits(inspection: Inspection, split: params.SplitParams, seed: int) -> Manifest:
    """Assign every good image to train, val or test.

    Official splits are kept; what the archive lacks (val, test or both) is taken from its train images, class
    by class. Of exact duplicates in two splits or two classes, one is kept; the numbers are reported.

    Raises:
        UserError: classes with too few images, or an official split without any; all of them are named.
    """
    database = inspection.database
    official = [name for name in SPLITS if name in inspection.official_splits()]
    duplicate_count = _exclude_duplicates(database)
    copies = _describe_copies(database)
    for line in copies.values():
        log.info(f"left out: {line}")
    _reject_empty_splits(database, official, copies)
    val_ratio = 0.0 if "val" in official else split.val_ratio
    test_ratio = 0.0 if "test" in official else split.test_ratio
    _reject_small_classes(inspection, val_ratio, test_ratio)
    _assign(database, val_ratio, test_ratio, seed)
    near = _find_near_duplicates(database, split.near_duplicate_bits)
    if near.test_image_count:
        log.info(
            f"near-duplicates of train or val images: {near.test_image_count} test images, which are kept"
        )
    return Manifest(inspection, duplicate_count, near, "/".join(official) or None)


def _exclude_duplicates(database: sqlite3.Connection) -> int:
    """Keep each file's bytes in one split and one class only: test before val before train, then by path.

    Repeats within one split and class stay, so that an official test folder remains comparable.

    Returns:
        Number of images moved from the table ``image`` to ``duplicate``.
    """
    database.executescript(
        """
        INSERT INTO duplicate
        SELECT path, 'same bytes as ' || first_path || CASE
            WHEN split <> first_split THEN ' in ' || first_split ELSE ' of class ' || first_class END,
            class, split, first_class, first_split
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
    return database.execute("SELECT count(*) FROM duplicate").fetchone()[0]


def _describe_copies(database: sqlite3.Connection) -> dict[str, str]:
    """For each split with images left out as duplicates, how many of how many, and of what."""
    query = """
        SELECT split, kept_split, count(*), (SELECT count(*) FROM image WHERE image.split = duplicate.split)
            + (SELECT count(*) FROM duplicate AS other WHERE other.split = duplicate.split)
        FROM duplicate GROUP BY split, kept_split ORDER BY split, kept_split
    """
    described: dict[str, str] = {}
    for split, kept_split, count, total in database.execute(query):
        kind = f"in {kept_split}" if kept_split != split else "of another class"
        text = f"{count} of {total} images{' in ' * bool(split)}{split} are copies of images {kind}"
        described[split] = f"{described[split]}; {text}" if split in described else text
    return described


def _reject_empty_splits(database: sqlite3.Connection, official: list[str], copies: dict[str, str]) -> None:
    """Raise UserError for an official split of which all images are bad or copies."""
    left = {split for (split,) in database.execute("SELECT DISTINCT split FROM image")}
    for split in official:
        if split not in left:
            (bad,) = database.execute("SELECT count(*) FROM bad WHERE split = ?", (split,)).fetchone()
            reasons = [copies[split]] if split in copies else []
            reasons += [f"{bad} are bad"] if bad else []
            other = "put other images there"
            fix = (
                other
                if split == "train"
                else f"{other}, or remove that folder: {split} is then made of train"
            )
            raise UserError(
                f"the archive's split {split} has no image left: {'; '.join(reasons)}. Fix: {fix}"
            )


def _reject_small_classes(inspection: Inspection, val_ratio: float, test_ratio: float) -> None:
    """Raise UserError for classes with too few distinct images to fill every split."""
    distinct = dict(
        inspection.database.execute(
            "SELECT class, count(DISTINCT sha256) FROM image WHERE split IN ('', 'train') GROUP BY class"
        ).fetchall()
    )
    left_out = inspection.database.execute(
        "SELECT class, count(*) FROM duplicate WHERE split IN ('', 'train') GROUP BY class"
    )
    copies = {name: f" ({count} copies left out)" for name, count in left_out}
    needed = min_class_size(val_ratio, test_ratio)
    counts = {name: distinct.get(name, 0) for name in inspection.classes}
    small = [
        f"'{name}' {count}{copies.get(name, '')}"
        for name, count in counts.items()
        if count < needed or _train_count(count, val_ratio, test_ratio) < 1
    ]
    if small:
        raise UserError(
            f"classes with too few images to split: {', '.join(small)}; each needs at least {needed} "
            "distinct ones. Add images, or remove these classes"
        )


def _assign(database: sqlite3.Connection, val_ratio: float, test_ratio: float, seed: int) -> None:
    """Split the images that are not in an official val or test; fill the table ``manifest``."""

    def split_of(position: int, class_size: int) -> str:
        return split_at(position, class_size, val_ratio, test_ratio)

    def key_of(class_name: str, sha256: str) -> bytes:
        return order_key(seed, class_name, sha256)

    database.create_function("split_of", 2, split_of, deterministic=True)
    database.create_function("key_of", 2, key_of, deterministic=True)
    database.executescript(
        """
        CREATE TABLE assigned (
            class TEXT, sha256 TEXT, split TEXT, PRIMARY KEY (class, sha256)
        ) WITHOUT ROWID;
        INSERT INTO assigned
        SELECT class, sha256, split_of(
            row_number() OVER (PARTITION BY class ORDER BY key_of(class, sha256)) - 1,
            count(*) OVER (PARTITION BY class)
        )
        FROM (SELECT DISTINCT class, sha256 FROM image WHERE split IN ('', 'train'));

        UPDATE image SET split =
            (SELECT split FROM assigned WHERE assigned.class = image.class AND assigned.sha256 = image.sha256)
        WHERE split IN ('', 'train');

        INSERT INTO manifest
        SELECT row_number() OVER (
            ORDER BY CASE split WHEN 'train' THEN 0 WHEN 'val' THEN 1 ELSE 2 END, class, path
        ) - 1, * FROM image;
        """
    )


def order_key(seed: int, class_name: str, sha256: str) -> bytes:
    """Sort key that puts a class's images into a pseudo-random order by seed, class and content."""
    return hashlib.sha256(f"{seed}/{class_name}/{sha256}".encode()).digest()


def split_at(position: int, class_size: int, val_ratio: float, test_ratio: float) -> str:
    """The split of the image at this position of its class's order.

    Test is taken from the front and val from the back, so that an image added later moves at most one other
    image across each boundary.
    """
    if position < held_out_count(class_size, test_ratio):
        return "test"
    return "train" if position < class_size - held_out_count(class_size, val_ratio) else "val"


def held_out_count(class_size: int, ratio: float) -> int:
    """Number of a class's images in a split of this ratio: at least one, or none if the ratio is 0."""
    return max(1, round(class_size * ratio)) if ratio else 0


def min_class_size(val_ratio: float, test_ratio: float) -> int:
    """Size of the smallest class that leaves at least one image for train."""
    return next(n for n in itertools.count(1) if _train_count(n, val_ratio, test_ratio) >= 1)


def _train_count(class_size: int, val_ratio: float, test_ratio: float) -> int:
    return class_size - held_out_count(class_size, val_ratio) - held_out_count(class_size, test_ratio)


def _find_near_duplicates(database: sqlite3.Connection, max_bits: int) -> NearDuplicates:
    """Compare the test images, which come last in the manifest, with all others."""
    total, others = database.execute("SELECT count(*), sum(split <> 'test') FROM manifest").fetchone()
    rows = database.execute("SELECT phash FROM manifest ORDER BY position")
    hashes = np.fromiter((int(text, 16) for (text,) in rows), np.uint64, total)
    closest, pair_count, test_images = near_duplicates.closest_pairs(
        hashes[others:], hashes[:others], max_bits, MAX_LISTED_PAIRS
    )
    closest[:, 1] += others
    return NearDuplicates(closest, pair_count, test_images)
