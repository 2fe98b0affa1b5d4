"""Open every image of an archive once: decode it, hash it, list the bad ones.

Photos that the last run has inspected are not decoded again: see ``KnownPhotos``.
"""

import contextlib
import hashlib
import itertools
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from finegrain.core import file_io, log, parallel, paths
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
CODECS = ("jpg", "libjpeg_turbo", "zlib", "zlib_ng", "webp", "avif", "libtiff", "littlecms2")
_KNOWN = np.dtype([("photo", "S32"), ("width", "<u4"), ("height", "<u4"), ("phash", "S16")])


def decoder_version() -> str:
    """Text that changes with everything besides bytes, size and fit that an image's pixels depend on."""
    codecs = [f"{name} {features.version(name)}" for name in CODECS]
    heif = getattr(decoding.pi_heif, "__version__", None)
    return f"{file_io.sha256(Path(decoding.__file__))}, Pillow {PIL.__version__}, {codecs}, pi-heif {heif}"


def photo_key(data: bytes) -> bytes:
    """Half of the SHA-256 of a photo's file, in hexadecimal digits."""
    return _key(hashlib.sha256(data).hexdigest())


def _key(sha256: str) -> bytes:
    return sha256[:32].encode()


class PhotoRows:
    """Rows of an array with a field ``photo``, found by that ``photo_key``.

    They are kept from run to run in a folder of ``.checkpoints``, in a file whose name is a hash of all that
    they depend on besides the photos.
    """

    def __init__(self, folder: str, key: Sequence[object], row: np.dtype[Any]) -> None:
        """Read the rows that were kept for this key, if any."""
        digest = hashlib.sha256(repr([*key, decoder_version(), row.descr]).encode()).hexdigest()
        self._file = paths.checkpoints_folder() / folder / f"{digest[:16]}.npy"
        self._rows = np.empty(0, row)
        with contextlib.suppress(OSError, ValueError, EOFError):  # there is none, or it is damaged
            self._rows = np.load(self._file)
        self._photos = self._rows["photo"].copy()

    def find(self, photo: bytes) -> Any:
        """The row of a photo; None if there is none."""
        place = int(np.searchsorted(self._photos, photo))
        return self._rows[place] if self._photos[place : place + 1].tolist() == [photo] else None

    def keep(self, rows: NDArray[Any], max_files: int) -> None:
        """Sort these rows and keep them for later runs with this key, with the last files of other keys."""
        folder = self._file.parent
        with contextlib.suppress(OSError):  # such as a disk that is full: only the next run is slower
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as stream:  # others may write, too
                rows.sort(order="photo")
                np.save(stream, rows)
            os.replace(stream.name, self._file)
            for old in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime)[:-max_files]:
                old.unlink()


class KnownPhotos:
    """Size and perceptual hash of the good photos of the last run, by the content of their files."""

    def __init__(self) -> None:
        self._rows = PhotoRows("inspected", [imagehash.__version__, _HASH_SIZE], _KNOWN)

    def find(self, photo: bytes) -> tuple[int, int, str] | None:
        """Width, height and perceptual hash of a photo."""
        row = self._rows.find(photo)
        return None if row is None else (int(row["width"]), int(row["height"]), row["phash"].decode())

    def replace(self, database: sqlite3.Connection, count: int) -> None:
        """Keep the ``count`` photos of another run instead."""
        found = database.execute("SELECT sha256, width, height, phash FROM image")
        rows = ((_key(sha256), width, height, phash.encode()) for sha256, width, height, phash in found)
        self._rows.keep(np.fromiter(rows, _KNOWN, count), max_files=1)


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
        """Stop the stage if more images are bad than ``split.max_bad_ratio`` allows; report fewer.

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
        if self.bad_count:
            counts = f"{self.bad_count:,} of {total:,}"
            log.info(f"left out: {counts} images cannot be used; the reasons are in {rejected_csv}")


def inspect_images(reader: archive.ArchiveReader, known: KnownPhotos | None = None) -> Inspection:
    """Read every image once, decode it completely, and hash it.

    Args:
        known: photos that need not be decoded; those of this run take their place. None decodes all.
    """
    database = index.temp_table()
    database.executescript(TABLES)
    threads = os.cpu_count() or 1
    inspect = partial(_inspect_image, known=known)
    results = parallel.map_in_order(inspect, reader.read(), threads, max_pending=4 * threads)
    bad_count = known_count = 0
    for image, result, is_known in log.progress_bar(results, total=len(reader), label="check images"):
        known_count += is_known
        if isinstance(result, str):
            bad_count += 1
            database.execute("INSERT INTO bad VALUES (?, ?, ?)", (image.path, result, image.split or ""))
        else:
            row = (image.path, image.part, image.class_name, image.split or "", *result, image.class_name)
            database.execute("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    if known:
        known.replace(database, len(reader) - bad_count)
    if known_count:
        log.info(f"{known_count:,} of {len(reader):,} photos were checked before: not decoded again")
    return Inspection(database, reader.classes, len(reader) - bad_count, bad_count)


def _inspect_image(
    item: tuple[ArchiveImage, bytes], known: KnownPhotos | None
) -> tuple[ArchiveImage, tuple[int, int, int, str, str] | str, bool]:
    """(width, height, bytes, sha256, phash) of one image, or why it cannot be used; whether it was known."""
    image, data = item
    digest = hashlib.sha256(data).hexdigest()
    if known and (found := known.find(_key(digest))):
        width, height, phash = found
        return image, (width, height, len(data), digest, phash), True
    try:
        rgb, (width, height) = decoding.decode_with_size(data, _HASH_SIZE)
    except decoding.BadImage as error:
        return image, str(error), False
    return image, (width, height, len(data), digest, str(imagehash.phash(rgb))), False
