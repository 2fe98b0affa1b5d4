"""The images on which an exported ONNX graph is compared with its network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finegrain.augmentation import crop
from finegrain.config.base import ImageFit
from finegrain.core import file_io, log
from finegrain.core.errors import UserError
from finegrain.dataset import decoding
from finegrain.loading.batches import pack_fingerprint
from finegrain.loading.pack_reader import PackReader
from finegrain.serving import inputs

MAX_IMAGES = 256
"""More images would find no more faults, and cost minutes at 448 pixels."""


@dataclass(frozen=True)
class CheckImages:
    """Images for the comparison, and what they are."""

    description: str
    """For the model card, such as ``all 108 test images``."""
    images: Tensor
    """``[N, S, S, 3]`` uint8, as stage pack stores them."""
    labels: Tensor | None
    """``[N]`` class ids; None if they are not known."""


def find_check_images(metadata: dict[str, Any], pack: Path | None, photos: Sequence[str]) -> CheckImages:
    """Take the user's photos, else the test images of the model's dataset, else random pixels.

    Args:
        metadata: content of the model's sidecar.
        pack: folder of the pack that the model may have been trained on.
        photos: files, folders, globs and archives; may be empty.

    Raises:
        UserError: none of the photos can be used.
    """
    if photos:
        return from_photos(photos, metadata["pack_image_size"], metadata["pack_fit"])
    if pack and _is_training_pack(metadata, pack):
        return from_test_split(pack)
    return from_noise(metadata["pack_image_size"])


def _is_training_pack(metadata: dict[str, Any], pack: Path) -> bool:
    """Whether the model was trained on exactly this pack."""
    try:
        packed = file_io.read_json(pack / "pack.json")
    except UserError:
        return False
    return bool(metadata.get("data") == pack_fingerprint(packed))


def from_test_split(pack: Path) -> CheckImages:
    """Take all test images, or ``MAX_IMAGES`` of them spread evenly over the classes."""
    reader, labels = PackReader([pack / "test.npy"]), np.load(pack / "test_labels.npy")
    total, size = len(reader), reader.image_size
    chosen = torch.from_numpy(np.linspace(0, total - 1, min(total, MAX_IMAGES)).round().astype(np.int64))
    images = np.empty((len(chosen), size, size, 3), np.uint8)
    reader.read(chosen, crop.full_boxes(len(chosen), size, size), images)
    description = (
        f"all {total:,} test images" if len(chosen) == total else f"{MAX_IMAGES} of the {total:,} test images"
    )
    return CheckImages(description, torch.from_numpy(images), torch.from_numpy(labels)[chosen])


def from_photos(photos: Sequence[str], size: int, fit: ImageFit) -> CheckImages:
    """Decode the first ``MAX_IMAGES`` usable photos; the others before them are reported as skipped."""
    images: list[Any] = []
    for photo, data in (item for source in inputs.find_photos(photos) for item in source.read()):
        try:
            if isinstance(data, str):
                raise decoding.BadImage(data)
            images.append(np.asarray(decoding.decode_square(data, size, fit)))
        except decoding.BadImage as error:
            log.info(f"skipped: {photo.name}: {error}")
        if len(images) == MAX_IMAGES:
            break
    if not images:
        raise UserError("--check: none of the photos can be used; give others")
    return CheckImages(f"{len(images)} photos given for it", torch.from_numpy(np.stack(images)), None)


def from_noise(size: int) -> CheckImages:
    """Draw 64 images of random pixels, always the same: a fault of the graph shows on these too."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, size, size, 3), dtype=torch.uint8, generator=generator)
    return CheckImages("64 images of random pixels, as there were no photos", images, None)
