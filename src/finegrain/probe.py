"""Images on which an exported graph is compared with its network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finegrain import crop, photos, picture, record
from finegrain.errors import UserError
from finegrain.pixels import Pixels

MOST = 256
"""Images: more would not find more, and cost minutes at 448 pixels."""


@dataclass(frozen=True)
class Probe:
    what: str
    """Such as ``108 test images``, for the model card."""
    squares: Tensor
    """``[N, S, S, 3]`` uint8, as stage pack stores them."""
    labels: Tensor | None
    """``[N]`` class ids, where known."""


def find(facts: dict[str, Any], pack: Path | None, wanted: Sequence[str]) -> Probe:
    """The user's photos, else the test images that the model was scored on, else random pixels.

    Args:
        facts: the model's sidecar.
        pack: folder of the pack that the model may have been trained on.
        wanted: photos, folders, globs, archives.

    Raises:
        UserError: photos are wanted, and none can be used.
    """
    if wanted:
        return of_photos(wanted, facts["pack_side_pixels"])
    if pack and _is_of(facts, pack):
        return of_test(pack)
    return of_noise(facts["pack_side_pixels"])


def _is_of(facts: dict[str, Any], pack: Path) -> bool:
    """Whether the model was trained on this very pack."""
    try:
        packed = record.read_json(pack / "pack.json")
    except UserError:
        return False
    return bool(facts.get("data") == f"{packed['manifest_sha256']}-{packed['side_pixels']}")


def of_test(pack: Path) -> Probe:
    """Test images spread evenly over the classes, or all of them."""
    pixels, labels = Pixels([pack / "test.npy"]), np.load(pack / "test_labels.npy")
    total, side = len(pixels), pixels.side
    chosen = torch.from_numpy(np.linspace(0, total - 1, min(total, MOST)).round().astype(np.int64))
    squares = np.empty((len(chosen), side, side, 3), np.uint8)
    pixels.read(chosen, crop.whole(len(chosen), side, side), squares)
    what = f"all {total:,} test images" if len(chosen) == total else f"{MOST} of the {total:,} test images"
    return Probe(what, torch.from_numpy(squares), torch.from_numpy(labels)[chosen])


def of_photos(wanted: Sequence[str], side: int) -> Probe:
    """The first photos; those that cannot be used are said and left out."""
    squares: list[Any] = []
    for photo, data in (item for source in photos.find(wanted) for item in source.read()):
        try:
            if isinstance(data, str):
                raise picture.BadImage(data)
            squares.append(np.asarray(picture.square(data, side)))
        except picture.BadImage as error:
            record.say(f"skipped: {photo.name}: {error}")
        if len(squares) == MOST:
            break
    if not squares:
        raise UserError("--check: none of its photos can be used")
    return Probe(f"{len(squares)} photos given for it", torch.from_numpy(np.stack(squares)), None)


def of_noise(side: int) -> Probe:
    """The same random pixels every time: an error of the graph shows on these too."""
    source = torch.Generator().manual_seed(0)
    squares = torch.randint(0, 256, (64, side, side, 3), dtype=torch.uint8, generator=source)
    return Probe("64 squares of random pixels: there were no photos", squares, None)
