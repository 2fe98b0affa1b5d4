"""Decode every image once into uint8 arrays, from which training reads its batches."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from finegrain.config.params import PackParams
from finegrain.core import disk, file_io, log, parallel
from finegrain.core.errors import UserError
from finegrain.dataset import decoding
from finegrain.dataset.manifest import SPLITS, read_manifest
from finegrain.sources import archive
from finegrain.sources.layout import ArchiveImage


def write_pack(reader: archive.ArchiveReader, manifest_file: Path, folder: Path, config: PackParams) -> None:
    """Write ``<split>.npy`` ([N, size, size, 3] uint8), ``<split>_labels.npy`` ([N] int64) and pack.json.

    Rows have the order of the manifest; a label is the index of the class among the sorted class names.

    Raises:
        UserError: too little space on the disk, or an archive that does not match the manifest.
    """
    plan = _PackPlan(reader, manifest_file)
    disk.require_free_space(folder, sum(plan.counts.values()) * (3 * config.image_size**2 + 8), "the pack")
    histogram = _write_images(reader, plan, folder, config)
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


def _write_images(
    reader: archive.ArchiveReader, plan: _PackPlan, folder: Path, config: PackParams
) -> NDArray[np.int64]:
    """Write ``<split>.npy`` for each split.

    Memory stays constant: rows go to plain files, as modified pages of a memory map count as the process's.

    Returns:
        ``[3, 256]``: for each channel, how often each byte value occurs in train.
    """
    histogram = np.zeros(3 * 256, np.int64)
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"{split}.npy").open("wb")) for split in SPLITS]
        starts = [
            _write_header(file, plan.counts[split], config.image_size)
            for file, split in zip(files, SPLITS, strict=True)
        ]
        for index, pixels, train_histogram in _decoded_images(reader, plan, config):
            split, row = plan.split[index], int(plan.row[index])
            files[split].seek(starts[split] + row * len(pixels))
            files[split].write(pixels)
            if train_histogram:
                histogram += train_histogram
    return histogram.reshape(3, 256)


def _write_header(file: BinaryIO, rows: int, image_size: int) -> int:
    """Write the header of a .npy file; return the offset of its first row in bytes."""
    shape = (rows, image_size, image_size, 3)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def _decoded_images(
    reader: archive.ArchiveReader, plan: _PackPlan, config: PackParams
) -> Iterator[tuple[int, bytes, list[int] | None]]:
    """Yield index and pixels of each image in reading order, and the histogram of train images."""

    def decode(item: tuple[ArchiveImage, bytes]) -> tuple[int, bytes, list[int] | None]:
        image, data = item
        try:
            decoded = decoding.decode_square(data, config.image_size, config.fit)
        except decoding.BadImage as error:
            raise UserError(f"{image.path}: {error}; the archive has changed, run `dvc repro`") from None
        is_train = SPLITS[plan.split[image.index]] == "train"
        return image.index, decoded.tobytes(), decoded.histogram() if is_train else None

    threads = os.cpu_count() or 1
    images = reader.read(wanted=lambda image: plan.split[image.index] >= 0)
    results = parallel.map_in_order(decode, images, threads, max_pending=4 * threads)
    yield from log.progress_bar(results, total=sum(plan.counts.values()), label="pack")


def mean_std(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation in 0..1 for each row of ``[channels, 256]`` counts of byte values.

    The standard deviation is at least one step of a byte: a channel without variation, as of black images,
    would otherwise be divided by 0, and one of almost none would be all noise.
    """
    values, counts = np.arange(256) / 255, histogram.sum(axis=1)
    mean = histogram @ values / counts
    variance = (histogram * (values - mean[:, None]) ** 2).sum(axis=1) / counts
    return mean.tolist(), np.sqrt(variance).clip(1 / 255).tolist()
