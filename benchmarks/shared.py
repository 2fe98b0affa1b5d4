"""What several benchmarks share: photos in folders, parameters from recipes, intervals, and spreads.

throughput_task.py is apart, because a process that times a loader must not import anything first.
"""

import hashlib
import io
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from finegrain.sources import archive, layout

ROOT = Path(__file__).resolve().parent.parent
DATASET, CARS = "photos", "cars"
"""Dataset names in params.yaml: of photos used for timing, and of those used to compare recipes."""
OTHERS = 16
"""Images in val, and in test: the stages and fastai need some; nothing is timed on them."""
CLASSES_DRAWN = 12


def write_photos(
    archives: Sequence[Path], folder: Path, images: int, image_size: int, repeat: bool = False
) -> None:
    """Fill ``folder/<train, val or test>/<class>/`` from class folders, or with generated images.

    Args:
        archives: zips of class folders; if empty, images are generated.
        images: number of train images. They come from the archives' own train folder, if they have one,
            spread over the classes; no two are byte-identical, since stage split would leave one out.
        image_size: image size of training; generated images are larger, to leave room for crops.
        repeat: repeat photos if the archives hold too few.

    Raises:
        SystemExit: the archives hold too few photos.
    """
    if archives:
        found = iter(_from_archives(archives, images, repeat))
    else:
        found = _drawn(images + 2 * OTHERS, pack_image_size(image_size))
    for number, (name, data) in enumerate(found):
        split = "train" if number < images else "val" if number < images + OTHERS else "test"
        file = folder / split / name / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _from_archives(archives: Sequence[Path], images: int, repeat: bool) -> list[tuple[str, bytes]]:
    """Class and bytes of ``images`` JPEGs, then of ``2 * OTHERS`` more of the same classes."""
    with tempfile.TemporaryDirectory() as links:
        for file in archives:
            Path(links, file.name).symlink_to(file.resolve())
        with archive.ArchiveReader(Path(links)) as reader:
            usable = reader.read(lambda image: image.split in (None, "train") and is_jpeg(image.path))
            contents = {image: data for image, data in usable}
    order = _spread(list(contents))
    trained = {image.class_name for image in order[:images]}
    order = order[:images] + [image for image in order[images:] if image.class_name in trained]
    once: dict[bytes, tuple[str, bytes]] = {}
    for image in order:
        data = contents[image]
        once.setdefault(hashlib.sha256(data).digest(), (image.class_name, data))
    found, needed = list(once.values()), images + 2 * OTHERS
    if repeat and found:
        found *= -(-needed // len(found))
    if len(found) < needed:
        raise SystemExit(f"--images {images}: the archives hold {len(found) - 2 * OTHERS} JPEGs to train on")
    return found[:needed]


def is_jpeg(path: str) -> bool:
    return path.lower().endswith((".jpg", ".jpeg"))


def _spread(images: Sequence[layout.ArchiveImage]) -> list[layout.ArchiveImage]:
    """Shuffle so that one image of each class comes first, then a second of each, and so on."""
    mixed = random.Random(0).sample(images, len(images))
    earlier: Counter[str] = Counter()
    rank = {}
    for image in mixed:
        rank[image.path] = earlier[image.class_name]
        earlier[image.class_name] += 1
    return sorted(mixed, key=lambda image: rank[image.path])


def _drawn(images: int, image_size: int) -> Iterator[tuple[str, bytes]]:
    """Generate smooth color patterns, with enough noise that the files are as large as those of photos."""
    rng = np.random.default_rng(0)
    width = image_size * 4 // 3
    for number in range(images):
        cells = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        cloud = np.asarray(Image.fromarray(cells).resize((width, image_size), Image.Resampling.BICUBIC))
        noisy = cloud + rng.integers(-14, 15, cloud.shape)
        stream = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85)
        yield f"class {number % CLASSES_DRAWN:02d}", stream.getvalue()


def pack_image_size(image_size: int) -> int:
    """Image size that the recipe packs for a training image size: 256 for 224."""
    return round(image_size * 256 / 224)


def settings(photos: Path, image_size: int, batch_size: int) -> dict[str, Any]:
    """The plain SGD recipe on these photos, from random weights."""
    data: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / "stanford-cars-sgd.yaml").read_text())
    data |= {"weights": "none", "batch_size": batch_size}
    data["dataset"] = {"name": DATASET, "source": "archive", "path": str(photos)}
    data["pack"]["image_size"] = pack_image_size(image_size)
    data["phases"]["all"]["image_size"] = image_size
    return data


def recipe(name: str, archives: Sequence[Path], model: str, seed: int) -> dict[str, Any]:
    """The parameters of a recipe for one run on these photos, from random weights, without a refit."""
    data: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())
    data["dataset"] = {"name": CARS, "source": "archive", "path": [str(file.resolve()) for file in archives]}
    return data | {"models": [model], "weights": "none", "seeds": [seed], "refit": False}


def lengthen(data: dict[str, Any], epochs: int) -> None:
    """Scale the phases, and what their schedules count in epochs, to ``epochs`` in all."""
    total = sum(phase["epochs"] for phase in data["phases"].values())
    for phase in data["phases"].values():
        phase["epochs"] = round(phase["epochs"] * epochs / total)
        schedule = phase["schedule"]
        if "every_epochs" in schedule:
            schedule["every_epochs"] = round(schedule["every_epochs"] * epochs / total)
        if "warmup_epochs" in schedule:
            schedule["warmup_epochs"] = schedule["warmup_epochs"] * epochs / total
    assert sum(phase["epochs"] for phase in data["phases"].values()) == epochs, "epochs do not add up"


def command(stage: str, model: str, seed: int) -> list[str]:
    """Command that runs a stage of this checkout without DVC, in the current folder."""
    which = ["--model", model, "--seed", str(seed)] if stage in ("train", "evaluate") else []
    return [sys.executable, str(ROOT / "src" / f"{stage}.py"), *which]


def accuracy_cells(right: Mapping[str, np.ndarray], ours: str) -> dict[str, list[str]]:
    """Cells of a table by row: top-1 of each seed, the mean with its interval, and ours minus this, paired.

    Args:
        right: whether each image is predicted correctly, ``[seeds, images]``, as 0 and 1.
        ours: the row that the others are compared with.
    """
    cells = {}
    for name, values in right.items():
        low, high = interval(values)
        difference, (lower, upper) = right[ours] - values, interval(right[ours] - values)
        cells[name] = [
            ", ".join(f"{seed.mean():.1%}" for seed in values),
            f"{values.mean():.1%} [{low:.1%}, {high:.1%}]",
            f"{difference.mean() * 100:+.1f} [{lower * 100:+.1f}, {upper * 100:+.1f}] points"
            if name != ours
            else "-",
        ]
    return cells


def interval(values: np.ndarray, draws: int = 5000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, resampling seeds and, within them, images ``[seeds, images]``."""
    rng = np.random.default_rng(0)
    seeds, images = values.shape
    means = [
        values[rng.integers(0, seeds, seeds)][:, rng.integers(0, images, images)].mean() for _ in range(draws)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """The smallest, the median and the largest value; None if there are none."""
    if not values:
        return None
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def shown(values: dict[str, float] | None, digits: int, unit: str = "") -> str:
    """Format a spread, such as ``1.25x [1.20, 1.31]``; empty if there are no values."""
    if values is None:
        return ""
    low, middle, high = (f"{values[name]:.{digits}f}" for name in ("min", "median", "max"))
    return f"{middle}{unit} [{low}, {high}]"
