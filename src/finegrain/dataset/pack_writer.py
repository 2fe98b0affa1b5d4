"""Decode every image once into uint8 arrays, from which training reads its batches.

An image that an earlier pack has, made in the same way, is copied from there (``EarlierPack``).
"""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finegrain.config.params import PackParams
from finegrain.core import disk, file_io, log, parallel
from finegrain.core.errors import UserError
from finegrain.dataset import decoding
from finegrain.dataset.inspection import PhotoRows, photo_key
from finegrain.dataset.manifest import SPLITS, read_manifest
from finegrain.sources import archive
from finegrain.sources.layout import ArchiveImage

MAX_KEPT = 5
"""Number of packs for which ``.checkpoints/packs`` holds the place of each photo, 49 bytes a photo."""
_ROW = np.dtype([("photo", "S32"), ("pixels", "<u8"), ("split", "u1"), ("position", "<u8")])
"""``photo_key`` of a photo; hash of its pixels, and their place: split, and position in its file."""


def write_pack(
    reader: archive.ArchiveReader,
    manifest_file: Path,
    folder: Path,
    config: PackParams,
    earlier: "EarlierPack | None" = None,
) -> None:
    """Write ``<split>.npy`` ([N, size, size, 3] uint8), ``<split>_labels.npy`` ([N] int64) and pack.json.

    Rows have the order of the manifest; a label is the index of the class among the sorted class names.

    Args:
        earlier: has the pixels of photos that were packed before; None decodes every image.

    Raises:
        UserError: too little space on the disk, or an archive that does not match the manifest.
    """
    plan = _PackPlan(reader, manifest_file)
    disk.require_free_space(folder, sum(plan.counts.values()) * (3 * config.image_size**2 + 8), "the pack")
    histogram, rows = _write_images(reader, plan, folder, config, earlier)
    for split, labels in plan.labels.items():
        np.save(folder / f"{split}_labels.npy", labels)
    mean, std = mean_std(histogram)
    metadata = {
        "image_size": config.image_size,
        "fit": config.fit,
        "classes": plan.classes,
        "counts": plan.counts,
        "mean": mean,
        "std": std,
        "manifest_sha256": file_io.sha256(manifest_file),
    }
    file_io.write_json(folder / "pack.json", metadata)
    if earlier:
        _photo_rows(metadata).keep(rows, MAX_KEPT)


class _PackPlan:
    """Where each image goes in the arrays, in 13 bytes an image.

    Raises:
        UserError: the archive lacks an image of the manifest.
    """

    def __init__(self, reader: archive.ArchiveReader, manifest_file: Path) -> None:
        sizes = Counter((row.class_name, row.split) for row in read_manifest(manifest_file))
        self.classes = sorted({name for name, _ in sizes})
        self.counts = {split: sum(sizes[name, split] for name in self.classes) for split in SPLITS}
        self.labels = {split: np.empty(count, np.int64) for split, count in self.counts.items()}
        self.split = np.full(len(reader), -1, np.int8)
        """Index in ``SPLITS`` by ``ArchiveImage.index``; -1 means not in the manifest."""
        self.row = np.empty(len(reader), np.int32)
        """Row in the array of its split by ``ArchiveImage.index``."""

        label_of = {name: label for label, name in enumerate(self.classes)}
        filled = dict.fromkeys(SPLITS, 0)
        missing: str | None = None
        for image in read_manifest(manifest_file):
            index = reader.index_of(image.path)
            if index is None:
                missing = min(missing or image.path, image.path)
                continue
            row = filled[image.split]
            filled[image.split] += 1
            self.split[index], self.row[index] = SPLITS.index(image.split), row
            self.labels[image.split][row] = label_of[image.class_name]
        if missing is not None:
            raise UserError(f"{missing}: in the manifest, but not in the archive; run `dvc repro`")


class EarlierPack:
    """The pixels of a pack that was made before, by the content of the photos' files.

    ``.checkpoints/packs`` holds the place of each photo and a hash of its pixels; pixels with another hash
    are not used.
    """

    def __init__(self, files: Mapping[str, Path], config: PackParams) -> None:
        """Open the pack.

        Args:
            files: files of the pack by name; may be empty.
            config: parameters that the pack must have been made with.
        """
        self._row_bytes = 3 * config.image_size**2
        self._rows: PhotoRows | None = None
        with contextlib.suppress(OSError, UserError, LookupError, TypeError):  # missing, damaged or old files
            metadata = file_io.read_json(files["pack.json"])
            if (metadata["image_size"], metadata["fit"]) == (config.image_size, config.fit):
                self._arrays = [files[f"{split}.npy"].open("rb") for split in SPLITS]
                self._rows = _photo_rows(metadata)

    def pixels(self, photo: bytes) -> bytes | None:
        """The pixels of a photo; None if they are not there.

        Args:
            photo: its ``photo_key``.
        """
        row = self._rows.find(photo) if self._rows else None
        if row is None:
            return None
        found = os.pread(self._arrays[row["split"]].fileno(), self._row_bytes, int(row["position"]))
        return found if _hash_pixels(found) == row["pixels"] else None


def _photo_rows(metadata: Mapping[str, Any]) -> PhotoRows:
    """Where the photos are in a pack with this pack.json."""
    return PhotoRows("packs", [metadata[key] for key in ("manifest_sha256", "image_size", "fit")], _ROW)


def _hash_pixels(pixels: bytes) -> int:
    return int.from_bytes(hashlib.sha256(pixels).digest()[:8], "little")


def _write_images(
    reader: archive.ArchiveReader,
    plan: _PackPlan,
    folder: Path,
    config: PackParams,
    earlier: EarlierPack | None,
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Write ``<split>.npy`` for each split.

    Memory stays constant: rows go to plain files, as modified pages of a memory map count as the process's.

    Returns:
        ``[3, 256]``: for each channel, how often each byte value occurs in train; ``[N]`` of ``_ROW``.
    """
    histogram, total = np.zeros(3 * 256, np.int64), sum(plan.counts.values())
    rows, copied = np.empty(total if earlier else 0, _ROW), 0
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"{split}.npy").open("wb")) for split in SPLITS]
        starts = [
            _write_header(file, plan.counts[split], config.image_size)
            for file, split in zip(files, SPLITS, strict=True)
        ]
        images = _packed_images(reader, plan, config, earlier)
        for place, image in enumerate(log.progress_bar(images, total=total, label="pack")):
            split = plan.split[image.number]
            position = starts[split] + int(plan.row[image.number]) * len(image.pixels)
            files[split].seek(position)
            files[split].write(image.pixels)
            if image.train_histogram:
                histogram += image.train_histogram
            if earlier:
                rows[place] = image.photo, image.pixels_hash, split, position
            copied += image.copied
    if copied:
        log.info(f"{copied:,} of {total:,} photos were packed before: copied, not decoded again")
    return histogram.reshape(3, 256), rows


def _write_header(file: BinaryIO, rows: int, image_size: int) -> int:
    """Write the header of a .npy file; return the offset of its first row in bytes."""
    shape = (rows, image_size, image_size, 3)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


class _PackedImage(NamedTuple):
    number: int
    """``ArchiveImage.index``."""
    pixels: bytes
    train_histogram: list[int] | None
    """None outside train."""
    photo: bytes
    pixels_hash: int
    """Both as in ``_ROW``, if there may be an earlier pack or a later one."""
    copied: bool


def _packed_images(
    reader: archive.ArchiveReader, plan: _PackPlan, config: PackParams, earlier: EarlierPack | None
) -> Iterator[_PackedImage]:
    """Yield each image in reading order."""

    def pack(item: tuple[ArchiveImage, bytes]) -> _PackedImage:
        image, data = item
        photo = photo_key(data) if earlier else b""
        pixels = earlier.pixels(photo) if earlier else None
        if pixels is None:
            try:
                square = decoding.decode_square(data, config.image_size, config.fit)
            except decoding.BadImage as error:
                raise UserError(f"{image.path}: {error}; the archive has changed, run `dvc repro`") from None
        else:
            square = Image.frombytes("RGB", (config.image_size, config.image_size), pixels)
        is_train = SPLITS[plan.split[image.index]] == "train"
        histogram, packed = square.histogram() if is_train else None, pixels or square.tobytes()
        pixels_hash = _hash_pixels(packed) if earlier else 0
        return _PackedImage(image.index, packed, histogram, photo, pixels_hash, pixels is not None)

    threads = os.cpu_count() or 1
    images = reader.read(wanted=lambda image: plan.split[image.index] >= 0)
    yield from parallel.map_in_order(pack, images, threads, max_pending=4 * threads)


def mean_std(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation in 0..1 for each row of ``[channels, 256]`` counts of byte values.

    The standard deviation is at least one step of a byte: a channel without variation, as of black images,
    would otherwise be divided by 0, and one of almost none would be all noise.
    """
    values, counts = np.arange(256) / 255, histogram.sum(axis=1)
    mean = histogram @ values / counts
    variance = (histogram * (values - mean[:, None]) ** 2).sum(axis=1) / counts
    return mean.tolist(), np.sqrt(variance).clip(1 / 255).tolist()
