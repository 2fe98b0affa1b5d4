"""Archives of two classes, what a reader finds in them, and the splits assigned to their images."""

from collections.abc import Mapping
from pathlib import Path

import drawn

from finegrain.config import params
from finegrain.dataset import assignment, inspection
from finegrain.dataset.inspection import Inspection
from finegrain.dataset.manifest import Manifest
from finegrain.sources import archive
from finegrain.sources.layout import ArchiveImage

FILES = {"cat/1.jpg": b"c1", "cat/2.jpg": b"c2", "dog/1.jpg": b"d1"}
WRITERS = {
    "a.zip": drawn.zip_file,
    "a.tar": drawn.tar_file,
    "a.tar.gz": drawn.tar_file,
    "a.tgz": drawn.tar_file,
}
"""File name of an archive -> the function that writes it."""

TENTHS = params.SplitParams(val_ratio=0.1, test_ratio=0.1)


def images(reader: archive.ArchiveReader) -> list[ArchiveImage]:
    return [image for image, _ in reader.read()]


def contents(reader: archive.ArchiveReader) -> list[tuple[str, bytes]]:
    return [(image.path, data) for image, data in reader.read()]


def official(**splits: Mapping[str, int]) -> dict[str, bytes]:
    """Different images in official folders, as in ``official(train={"cat": 2}, test={"cat": 1})``."""
    files: dict[str, bytes] = {}
    for i, (split, counts) in enumerate(splits.items()):
        files |= {f"{split}/{path}": data for path, data in drawn.classes(counts, 100 * i).items()}
    return files


def inspect(tmp_path: Path, files: Mapping[str, bytes]) -> Inspection:
    """Write an archive of the files and open every image in it."""
    folder = tmp_path / "archive"
    drawn.zip_file(folder / "a.zip", files)
    with archive.ArchiveReader(folder) as reader:
        return inspection.inspect_images(reader)


def assign(
    tmp_path: Path, files: Mapping[str, bytes], split: params.SplitParams = TENTHS, seed: int = 0
) -> Manifest:
    """Write an archive of the files and assign every image to a split."""
    return assignment.assign_splits(inspect(tmp_path, files), split, seed)


def splits_by_path(manifest: Manifest) -> dict[str, str]:
    return {row.path: row.split for row in manifest.rows()}
