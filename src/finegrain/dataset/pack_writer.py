"""Decode every image once into uint8 arrays that training maps into memory."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from finegrain.core import disk, file_io, log, parallel
from finegrain.core.errors import UserError
from finegrain.dataset import decoding, manifest
from finegrain.sources import archive
from finegrain.sources.layout import ArchiveImage

SPLITS = manifest.SPLITS


def write_pack(reader: archive.ArchiveReader, table: Path, folder: Path, image_size: int) -> None:
    """Write ``<split>.npy`` ([N, side, side, 3] uint8), ``<split>_labels.npy`` ([N] int64) and pack.json.

    Rows stand in the order of the manifest; a label is the index of the class among the sorted class names.
    Memory stays constant: rows go to plain files, since the dirty pages of a memory map count as ours.

    Args:
        table: the manifest's file.

    Raises:
        UserError: too little space on the disk, or an archive that is not the manifest's.
    """
    plan = _PackPlan(reader, table)
    disk.require_free_space(folder, sum(plan.counts.values()) * (3 * image_size**2 + 8), "the pack")

    histogram = np.zeros(3 * 256, np.int64)  # of train's reds, greens and blues
    with ExitStack() as stack:
        streams = [stack.enter_context((folder / f"{split}.npy").open("wb")) for split in SPLITS]
        counts = [plan.counts[split] for split in SPLITS]
        starts = [_write_header(*each, image_size) for each in zip(streams, counts, strict=True)]
        for place, pixels, train_counts in _decoded_images(reader, plan, image_size):
            split, row = plan.split[place], int(plan.row[place])
            streams[split].seek(starts[split] + row * len(pixels))
            streams[split].write(pixels)
            if train_counts:
                histogram += train_counts

    for split, labels in plan.labels.items():
        np.save(folder / f"{split}_labels.npy", labels)
    mean, std = mean_std(histogram.reshape(3, 256))
    facts = {
        "image_size": image_size,
        "classes": plan.classes,
        "counts": plan.counts,
        "mean": mean,
        "std": std,
        "manifest_sha256": file_io.sha256(table),
    }
    file_io.write_json(folder / "pack.json", facts)


class _PackPlan:
    """Where the pixels of each image go, in 13 bytes an image.

    Raises:
        UserError: the archive lacks an image of the manifest.
    """

    def __init__(self, reader: archive.ArchiveReader, table: Path) -> None:
        sizes = Counter((row.class_name, row.split) for row in manifest.read_manifest(table))
        self.classes = sorted({name for name, _ in sizes})
        self.counts = {split: sum(sizes[name, split] for name in self.classes) for split in SPLITS}
        self.labels = {split: np.empty(count, np.int64) for split, count in self.counts.items()}
        self.split = np.full(len(reader), -1, np.int8)
        """Index in SPLITS by the image's place in the archive; -1: not in the manifest."""
        self.row = np.empty(len(reader), np.int32)

        label_of = {name: label for label, name in enumerate(self.classes)}
        filled = dict.fromkeys(SPLITS, 0)
        missing: str | None = None
        for image in manifest.read_manifest(table):
            place = reader.place(image.path)
            if place is None:
                missing = min(missing or image.path, image.path)
                continue
            row = filled[image.split]
            filled[image.split] += 1
            self.split[place], self.row[place] = SPLITS.index(image.split), row
            self.labels[image.split][row] = label_of[image.class_name]
        if missing is not None:
            raise UserError(f"the archive holds no {missing}, but the manifest does; run `dvc repro`")


def _write_header(file: BinaryIO, rows: int, side: int) -> int:
    """Begin a .npy file; returns where its first row begins."""
    shape = (rows, side, side, 3)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def _decoded_images(
    reader: archive.ArchiveReader, plan: _PackPlan, side: int
) -> Iterator[tuple[int, bytes, list[int] | None]]:
    """Place and pixels of each image in the archive's order; of a train image also the histogram."""

    def square(item: tuple[ArchiveImage, bytes]) -> tuple[int, bytes, list[int] | None]:
        image, data = item
        try:
            pixels = decoding.decode_square(data, side)
        except decoding.BadImage as error:
            raise UserError(f"{image.path}: {error}; the archive has changed, run `dvc repro`") from None
        is_train = SPLITS[plan.split[image.place]] == "train"
        return image.place, pixels.tobytes(), pixels.histogram() if is_train else None

    threads = os.cpu_count() or 1
    images = reader.read(wanted=lambda image: plan.split[image.place] >= 0)
    found = parallel.map_in_order(square, images, threads, ahead=4 * threads)
    yield from log.progress_bar(found, total=sum(plan.counts.values()), label="pack")


def mean_std(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation in 0..1 of each row of ``[channels, 256]`` counts of byte values."""
    values, counts = np.arange(256) / 255, histogram.sum(axis=1)
    mean = histogram @ values / counts
    variance = (histogram * (values - mean[:, None]) ** 2).sum(axis=1) / counts
    return mean.tolist(), np.sqrt(variance).tolist()
