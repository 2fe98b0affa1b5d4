"""Images on which an exported graph is compared with its network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finegrain.augmentation import crop
from finegrain.core import file_io, log
from finegrain.core.errors import UserError
from finegrain.dataset import decoding
from finegrain.loading.pack_reader import PackReader
from finegrain.serving import inputs

MAX_IMAGES = 256
"""Images: more would not find more, and cost minutes at 448 pixels."""


@dataclass(frozen=True)
class CheckImages:
    what: str
    """Such as ``108 test images``, for the model card."""
    squares: Tensor
    """``[N, S, S, 3]`` uint8, as stage pack stores them."""
    labels: Tensor | None
    """``[N]`` class ids, where known."""


def find_check_images(facts: dict[str, Any], pack: Path | None, wanted: Sequence[str]) -> CheckImages:
    """The user's photos, else the test images that the model was scored on, else random pixels.

    Args:
        facts: the model's sidecar.
        pack: folder of the pack that the model may have been trained on.
        wanted: photos, folders, globs, archives.

    Raises:
        UserError: photos are wanted, and none can be used.
    """
    if wanted:
        return from_photos(wanted, facts["pack_image_size"])
    if pack and _is_training_pack(facts, pack):
        return from_test_split(pack)
    return from_noise(facts["pack_image_size"])


def _is_training_pack(facts: dict[str, Any], pack: Path) -> bool:
    """Whether the model was trained on this very pack."""
    try:
        packed = file_io.read_json(pack / "pack.json")
    except UserError:
        return False
    return bool(facts.get("data") == f"{packed['manifest_sha256']}-{packed['image_size']}")


def from_test_split(pack: Path) -> CheckImages:
    """Test images spread evenly over the classes, or all of them."""
    pixels, labels = PackReader([pack / "test.npy"]), np.load(pack / "test_labels.npy")
    total, side = len(pixels), pixels.side
    chosen = torch.from_numpy(np.linspace(0, total - 1, min(total, MAX_IMAGES)).round().astype(np.int64))
    squares = np.empty((len(chosen), side, side, 3), np.uint8)
    pixels.read(chosen, crop.full_boxes(len(chosen), side, side), squares)
    what = (
        f"all {total:,} test images" if len(chosen) == total else f"{MAX_IMAGES} of the {total:,} test images"
    )
    return CheckImages(what, torch.from_numpy(squares), torch.from_numpy(labels)[chosen])


def from_photos(wanted: Sequence[str], side: int) -> CheckImages:
    """The first photos; those that cannot be used are said and left out."""
    squares: list[Any] = []
    for photo, data in (item for source in inputs.find_photos(wanted) for item in source.read()):
        try:
            if isinstance(data, str):
                raise decoding.BadImage(data)
            squares.append(np.asarray(decoding.decode_square(data, side)))
        except decoding.BadImage as error:
            log.info(f"skipped: {photo.name}: {error}")
        if len(squares) == MAX_IMAGES:
            break
    if not squares:
        raise UserError("--check: none of its photos can be used")
    return CheckImages(f"{len(squares)} photos given for it", torch.from_numpy(np.stack(squares)), None)


def from_noise(side: int) -> CheckImages:
    """The same random pixels every time: an error of the graph shows on these too."""
    source = torch.Generator().manual_seed(0)
    squares = torch.randint(0, 256, (64, side, side, 3), dtype=torch.uint8, generator=source)
    return CheckImages("64 squares of random pixels: there were no photos", squares, None)
