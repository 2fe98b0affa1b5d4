"""Decode every image once into uint8 arrays that training maps into memory."""

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finegrain import picture, record
from finegrain.errors import UserError
from finegrain.sources import archive
from finegrain.sources.folders import Image

SPLITS = ("train", "val", "test")


def pack(
    reader: archive.Reader, manifest: pd.DataFrame, folder: Path, side_pixels: int, manifest_sha256: str
) -> None:
    """Write ``<split>.npy`` ([N, side, side, 3] uint8), ``<split>_labels.npy`` ([N] int64) and pack.json.

    Rows stand in the order of the manifest; a label is the index of the class among the sorted class names.
    Memory stays constant: rows go to plain files, since the dirty pages of a memory map count as ours.

    Raises:
        UserError: too little space on the disk, or an archive that is not the manifest's.
    """
    classes = sorted(manifest["class"].unique().tolist())
    label_of = {name: label for label, name in enumerate(classes)}
    tables = {split: manifest[manifest["split"] == split] for split in SPLITS}
    places = {path: (split, row) for split in SPLITS for row, path in enumerate(tables[split]["path"])}
    archive.refuse_full_disk(folder, len(manifest) * (3 * side_pixels**2 + 8))

    histogram = np.zeros(3 * 256, np.int64)  # of train's reds, greens and blues
    with ExitStack() as stack:
        files = {split: stack.enter_context((folder / f"{split}.npy").open("wb")) for split in SPLITS}
        starts = {split: _write_header(files[split], len(tables[split]), side_pixels) for split in SPLITS}
        for path, pixels, counts in _squares(reader, places.keys(), side_pixels):
            split, row = places[path]
            files[split].seek(starts[split] + row * len(pixels))
            files[split].write(pixels)
            if split == "train":
                histogram += counts

    for split in SPLITS:
        labels = [label_of[name] for name in tables[split]["class"]]
        np.save(folder / f"{split}_labels.npy", np.array(labels, np.int64))
    mean, std = moments(histogram.reshape(3, 256))
    facts = {
        "side_pixels": side_pixels,
        "classes": classes,
        "counts": {split: len(tables[split]) for split in SPLITS},
        "mean": mean,
        "std": std,
        "manifest_sha256": manifest_sha256,
    }
    record.write_json(folder / "pack.json", facts)


def _write_header(file: BinaryIO, rows: int, side: int) -> int:
    """Begin a .npy file; returns where its first row begins."""
    shape = (rows, side, side, 3)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def _squares(
    reader: archive.Reader, paths: Collection[str], side: int
) -> Iterator[tuple[str, bytes, list[int]]]:
    """Path, pixels and their histogram, of each image in the archive's order."""

    def square(item: tuple[Image, bytes]) -> tuple[str, bytes, list[int]]:
        image, data = item
        try:
            pixels = picture.square(data, side)
        except picture.BadImage as error:
            raise UserError(f"{image.path}: {error}; the archive has changed, run `dvc repro`") from None
        return image.path, pixels.tobytes(), pixels.histogram()

    missing = min((path for path in paths if reader.place(path) is None), default=None)
    if missing is not None:
        raise UserError(f"the archive holds no {missing}, but the manifest does; run `dvc repro`")
    threads = os.cpu_count() or 1
    images = reader.read(wanted=lambda image: image.path in paths)
    found = record.in_order(square, images, threads, ahead=4 * threads)
    yield from record.progress(found, total=len(paths), label="pack")


def moments(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation in 0..1 of each row of ``[channels, 256]`` counts of byte values."""
    values, counts = np.arange(256) / 255, histogram.sum(axis=1)
    mean = histogram @ values / counts
    variance = (histogram * (values - mean[:, None]) ** 2).sum(axis=1) / counts
    return mean.tolist(), np.sqrt(variance).tolist()
