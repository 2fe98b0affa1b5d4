"""Assign images to train, val and test: exact duplicates, stratified splits, near-duplicates."""

import sqlite3

import numpy as np

from finegrain.config import params
from finegrain.core import log
from finegrain.core.errors import UserError, some
from finegrain.dataset import groups, near_duplicates
from finegrain.dataset.inspection import Inspection
from finegrain.dataset.manifest import MAX_LISTED_PAIRS, SPLITS, Manifest, NearDuplicates


def assign_splits(
    inspection: Inspection,
    split: params.SplitParams,
    seed: int,
    group_of: groups.GroupOf | None = None,
) -> Manifest:
    """Assign every good image to train, val or test.

    Official splits are kept; what the archive lacks (val, test or both) is taken from its train images, class
    by class. Of exact duplicates in two splits or two classes, one is kept; the numbers are reported.

    Args:
        group_of: images of one group are put into one split; None if there are no groups.

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
    keep_near = split.near_duplicates == "keep_together"
    if group_of is not None:
        groups.find_groups(database, group_of)
    if group_of is None and not keep_near:
        _reject_small_classes(inspection, val_ratio, test_ratio)
    else:
        _reject_small_classes(inspection, 0.0, 0.0)  # those with too few groups are reported below
    groups.find_units(database, seed, split.near_duplicate_bits if keep_near else None)
    groups.assign_units(database, val_ratio, test_ratio)
    _write_splits(database)
    _report_missing_classes(inspection)
    group_counts = groups.count_groups(database) if group_of is not None else None
    if group_counts is not None and group_counts.in_several_splits:
        log.info(
            f"groups in several of the archive's splits: {group_counts.in_several_splits}, with "
            f"{group_counts.test_images_shared} test images whose group is in train or val too"
        )
    near = _find_near_duplicates(database, split.near_duplicate_bits)
    if near.test_image_count:
        log.info(
            f"near-duplicates of train or val images: {near.test_image_count} test images, which are kept"
        )
    return Manifest(inspection, duplicate_count, near, "/".join(official) or None, group_counts)


def _exclude_duplicates(database: sqlite3.Connection) -> int:
    """Keep each file's bytes in one split and one class only.

    Kept is what is in test before val before train, then what was given another class, then the first path.
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
                PARTITION BY sha256
                ORDER BY CASE split WHEN 'test' THEN 0 WHEN 'val' THEN 1 ELSE 2 END, class = label, path
            )
        )
        WHERE split <> first_split OR class <> first_class;

        DELETE FROM image WHERE path IN (SELECT path FROM duplicate);

        -- copies that corrections have brought together must not be assigned each on its own
        UPDATE image SET label = class
            WHERE sha256 IN (SELECT sha256 FROM image GROUP BY sha256 HAVING count(DISTINCT label) > 1);
        """
    )
    return database.execute("SELECT count(*) FROM duplicate").fetchone()[0]


def _describe_copies(database: sqlite3.Connection) -> dict[str, str]:
    """For each split, a text on how many of its images are copies, and of images in which split or class."""
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
            reasons = [copies[split]] if split in copies else []
            for table in ("bad", "dropped"):
                query = f"SELECT count(*) FROM {table} WHERE split = ?"
                if count := database.execute(query, (split,)).fetchone()[0]:
                    reasons.append(f"{count} are {table}")
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
    needed = 1 + bool(val_ratio) + bool(test_ratio)
    counts = {name: distinct.get(name, 0) for name in inspection.classes}
    small = [f"'{name}' {count}{copies.get(name, '')}" for name, count in counts.items() if count < needed]
    if small:
        raise UserError(
            f"classes with too few images to split: {some(small, 20)}; each needs at least {needed} "
            "different ones: add images, or remove these classes"
        )


def _write_splits(database: sqlite3.Connection) -> None:
    """Write the splits of the units into the table ``image``, and fill the table ``manifest``."""
    database.executescript(
        """
        CREATE VIEW assigned AS
            SELECT class AS label, sha256, coalesce(chosen.split, 'train') AS split
            FROM item LEFT JOIN chosen USING (unit);
        UPDATE image SET split = (SELECT assigned.split FROM assigned
                WHERE assigned.label = image.label AND assigned.sha256 = image.sha256)
            WHERE split IN ('', 'train');
        UPDATE dropped SET split = (SELECT assigned.split FROM assigned
                WHERE assigned.label = dropped.label AND assigned.sha256 = dropped.sha256)
            WHERE split IN ('', 'train');

        INSERT INTO manifest
        SELECT row_number() OVER (
            ORDER BY CASE split WHEN 'train' THEN 0 WHEN 'val' THEN 1 ELSE 2 END, class, path
        ) - 1, path, part, class, split, width, height, bytes, sha256, phash FROM image;
        """
    )


def _report_missing_classes(inspection: Inspection) -> None:
    """Name the classes that have no image in val or test.

    Raises:
        UserError: no class has any, or corrections leave a class without an image in train.
    """
    found = set(inspection.database.execute("SELECT DISTINCT class, split FROM manifest"))
    if untrained := [name for name in inspection.classes if (name, "train") not in found]:
        raise UserError(
            "params.yaml: dataset.corrections: classes without an image in train are left: "
            f"{some(untrained, 20)}; add images, or drop all of these classes"
        )
    for split in ("val", "test"):
        missing = [name for name in inspection.classes if (name, split) not in found]
        if len(missing) == len(inspection.classes):
            raise UserError(
                f"no image is left for {split}: each class has too few groups; use smaller groups in "
                "split.group or dataset.labels.group, or a smaller split.near_duplicate_bits"
            )
        if missing:
            log.info(f"classes without an image in {split}: {some(missing, 20)}")


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
