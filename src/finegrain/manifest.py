"""Which image belongs to which split: checks, hashes, duplicates, stratified assignment."""

import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finegrain import params, picture, record
from finegrain.errors import UserError
from finegrain.sources import archive
from finegrain.sources.folders import Image

COLUMNS = ("path", "part", "class", "split", "width", "height", "bytes", "sha256", "phash")
SPLITS = ("train", "val", "test")
MAX_LISTED_PAIRS = 10_000

_HASH_SIDE = 128
"""The perceptual hash looks at 32 x 32 pixels: large JPEGs need not be decoded at full size for it."""


@dataclass(frozen=True)
class Inspected:
    """What one pass over the images found."""

    frame: pd.DataFrame
    """The good images, with ``COLUMNS``; split is the official one, or empty."""
    rejected: list[tuple[str, str]]
    """(path, reason) of the bad ones, sorted."""
    classes: list[str]
    """Sorted; includes those whose images are all bad."""

    def refuse_many_bad(self, max_ratio: float, listed_in: Path) -> None:
        """Stop if more images are bad than the user has allowed."""
        bad, total = len(self.rejected), len(self.rejected) + len(self.frame)
        if bad > max_ratio * total:
            first = "".join(f"\n  {path}: {reason}" for path, reason in self.rejected[:5])
            raise UserError(
                f"{bad} of {total} images ({bad / total:.2%}) cannot be used; split.max_bad_ratio allows "
                f"{max_ratio:.2%}. All are listed in {listed_in}; the first ones:{first}"
            )


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of a test image and a train or val image that look alike."""

    rows: list[tuple[str, str, int]]
    """(test path, other path, differing bits), closest first, at most ``MAX_LISTED_PAIRS``."""
    pairs: int
    test_images: int


@dataclass(frozen=True)
class Manifest:
    frame: pd.DataFrame
    """Every image in use, with ``COLUMNS``, sorted by split (train, val, test), class and path."""
    rejected: list[tuple[str, str]]
    """(path, reason) of the bad images, then of the exact duplicates left out."""
    bad: int
    exact_duplicates: int
    near: NearDuplicates
    official_split: str | None
    """Such as ``train/test``."""

    def balance(self) -> list[tuple[str, str, int]]:
        """(class, split, images), zeros included."""
        counts = self.frame.groupby(["class", "split"]).size()
        names = sorted(self.frame["class"].unique())
        return [(name, split, int(counts.get((name, split), 0))) for name in names for split in SPLITS]

    def metrics(self) -> dict[str, Any]:
        sizes = self.frame.groupby("class").size()
        untested = sum(split == "test" and images == 0 for _, split, images in self.balance())
        return {
            "images": {split: int((self.frame["split"] == split).sum()) for split in SPLITS},
            "classes": len(sizes),
            "classes_without_test": untested,
            "official_split": self.official_split,
            "rejected": self.bad,
            "exact_duplicates_left_out": self.exact_duplicates,
            "near_duplicates": self.near.pairs,
            "test_images_with_near_duplicate": self.near.test_images,
            "smallest_class": int(sizes.min()),
            "largest_class": int(sizes.max()),
        }


def inspect(reader: archive.Reader) -> Inspected:
    """Open every image once, decode it fully, and hash it."""
    threads = os.cpu_count() or 1
    found = record.in_order(_inspect_one, reader.read(), threads, ahead=4 * threads)
    rows, rejected = [], []
    for image, result in record.progress(found, total=len(reader), label="check images"):
        if isinstance(result, str):
            rejected.append((image.path, result))
        else:
            rows.append((image.path, image.part, image.class_name, image.split or "", *result))
    return Inspected(pd.DataFrame(rows, columns=COLUMNS), sorted(rejected), reader.classes)


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
    official = [name for name in SPLITS if (inspected.frame["split"] == name).any()]
    frame, duplicates = leave_out_duplicates(inspected.frame)
    ratios = {
        "val": 0.0 if "val" in official else split.val_ratio,
        "test": 0.0 if "test" in official else split.test_ratio,
    }
    frame = _assign(frame, inspected.classes, ratios["val"], ratios["test"], seed)
    near = _near_duplicates_of(frame, split.near_duplicate_bits)
    return Manifest(
        frame=frame,
        rejected=inspected.rejected + duplicates,
        bad=len(inspected.rejected),
        exact_duplicates=len(duplicates),
        near=near,
        official_split="/".join(official) or None,
    )


def leave_out_duplicates(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Keep each file's bytes in one split and one class only: test before val before train, then by path.

    Repeats within one split and class stay, so that an official test folder remains comparable.

    Returns:
        The images to keep, sorted by path, and (path, reason) of the others.
    """
    rank = frame["split"].map({"test": 0, "val": 1, "train": 2, "": 2})
    ranked = frame.assign(rank=rank).sort_values(["rank", "path"])
    kept = ranked.groupby("sha256")[["path", "split", "class"]].transform("first")
    other_split, other_class = ranked["split"] != kept["split"], ranked["class"] != kept["class"]
    out = other_split | other_class
    reasons = [
        (path, f"same bytes as {first} in {split}" if moved else f"same bytes as {first} of class {label}")
        for path, first, split, label, moved in zip(
            ranked["path"][out],
            kept["path"][out],
            kept["split"][out],
            kept["class"][out],
            other_split[out],
            strict=True,
        )
    ]
    return ranked[~out].drop(columns="rank").sort_values("path"), sorted(reasons)


def _assign(
    frame: pd.DataFrame, classes: Sequence[str], val_ratio: float, test_ratio: float, seed: int
) -> pd.DataFrame:
    """Divide the images that are not in an official val or test; sort by split, class and path."""
    pool = frame[frame["split"].isin(["", "train"])]
    digests = {str(name): group.unique().tolist() for name, group in pool.groupby("class")["sha256"]}
    needed = fewest(val_ratio, test_ratio)
    place: dict[tuple[str, str], str] = {}
    small = []
    for name in classes:
        distinct = digests.get(name, [])
        divided = divide(distinct, name, val_ratio, test_ratio, seed)
        if len(distinct) < needed or divided is None:
            small.append(f"'{name}' {len(distinct)}")
        else:
            place.update(((name, digest), split) for digest, split in divided.items())
    if small:
        raise UserError(
            f"classes with too few images to divide: {', '.join(small)}; at least {needed} different ones "
            "are needed in each. Add images, or leave those classes out"
        )
    keys = zip(pool["class"], pool["sha256"], strict=True)
    splits = frame["split"].astype(object)
    splits[pool.index] = [place[key] for key in keys]
    order = pd.Categorical(splits, categories=SPLITS, ordered=True)
    assigned = frame.assign(split=order).sort_values(["split", "class", "path"], ignore_index=True)
    return assigned.assign(split=assigned["split"].astype(str))


def divide(
    digests: Sequence[str], class_name: str, val_ratio: float, test_ratio: float, seed: int
) -> dict[str, str] | None:
    """Digest -> split for one class; None if there are too few.

    Images stand in an order of their own, by a hash of seed, class and content: test is cut off its front
    and val off its back, so an image added later moves at most one other across each cut.
    """
    n_val, n_test = cut(len(digests), val_ratio), cut(len(digests), test_ratio)
    n_train = len(digests) - n_val - n_test
    if n_train < 1:
        return None
    order = sorted(digests, key=lambda d: hashlib.sha256(f"{seed}/{class_name}/{d}".encode()).digest())
    splits = ["test"] * n_test + ["train"] * n_train + ["val"] * n_val
    return dict(zip(order, splits, strict=True))


def cut(images: int, ratio: float) -> int:
    """How many of a class's images make up this share: at least one, unless no share is asked for."""
    return max(1, round(images * ratio)) if ratio else 0


def fewest(val_ratio: float, test_ratio: float) -> int:
    """The smallest class that leaves an image to each split."""
    return next(n for n in itertools.count(1) if n - cut(n, val_ratio) - cut(n, test_ratio) >= 1)


def _near_duplicates_of(frame: pd.DataFrame, max_bits: int) -> NearDuplicates:
    hashes = np.array([int(text, 16) for text in frame["phash"]], np.uint64)
    is_test = (frame["split"] == "test").to_numpy()
    pairs, total, tested = near_duplicates(hashes[is_test], hashes[~is_test], max_bits, MAX_LISTED_PAIRS)
    test_paths, other_paths = frame["path"][is_test].tolist(), frame["path"][~is_test].tolist()
    return NearDuplicates(
        [(test_paths[i], other_paths[j], bits) for bits, i, j in pairs.tolist()], total, tested
    )


def near_duplicates(
    test: NDArray[np.uint64], others: NDArray[np.uint64], max_bits: int, limit: int
) -> tuple[NDArray[np.int64], int, int]:
    """Compare every test hash with every other one, block by block: a few MB whatever their number.

    Returns:
        ``[pairs, 3]`` (bits, test index, other index) of the ``limit`` closest pairs, in that order; the
        number of all pairs within ``max_bits``; the number of test hashes that are in one.
    """
    closest = np.empty((0, 3), np.int64)
    total = 0
    has_pair = np.zeros(len(test), bool)
    rows, columns = 128, 2_048
    for i, j in itertools.product(range(0, len(test), rows), range(0, len(others), columns)):
        bits = np.bitwise_count(test[i : i + rows, None] ^ others[None, j : j + columns])
        near = np.argwhere(bits <= max_bits)
        if len(near):
            found = np.column_stack([bits[tuple(near.T)], near + (i, j)]).astype(np.int64)
            total += len(found)
            has_pair[found[:, 1]] = True
            closest = np.concatenate([closest, found])
            closest = closest[np.lexsort(closest.T[::-1])][:limit]
    return closest, total, int(has_pair.sum())


def write(file: Path, frame: pd.DataFrame) -> None:
    record.write_csv(file, COLUMNS, frame[list(COLUMNS)].itertuples(index=False))


def read(file: Path) -> pd.DataFrame:
    """The manifest as text and whole numbers; a class may be called ``NA`` or ``007``.

    Raises:
        UserError: no such file, or not a manifest.
    """
    numbers = {"width": int, "height": int, "bytes": int}
    types = {name: numbers.get(name, str) for name in COLUMNS}
    try:
        frame = pd.read_csv(file, dtype=types, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{file}: not found; `dvc repro split` makes it") from None
    except ValueError as error:
        raise UserError(f"{file}: not a manifest ({error}); run `dvc repro split` again") from None
    if tuple(frame.columns) != COLUMNS:
        raise UserError(f"{file}: has columns {list(frame.columns)}; run `dvc repro split` again")
    return frame
