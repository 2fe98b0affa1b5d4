"""The embedded sample dataset: vehicles drawn by code, so that a fresh clone runs offline.

Its twelve classes are named as in Stanford Cars: make, body, year. Makes differ in nose, headlamp and wheel
arch, bodies in the roof line, years in small parts (wheels, tail lamp, rack, spoiler, sill). Everything else
is drawn at random, independently of the class: paint, tint, scene, pose, facing, light, blur, noise.
"""

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from finegrain.core import disk, file_io, log
from finegrain.sample import vehicles
from finegrain.sample.vehicles import CLASS_NAMES, CLASSES, Vehicle
from finegrain.sources.archive import reproducible_zip_info

Color = tuple[int, ...]
"""RGB or RGBA, 0..255."""


@dataclass(frozen=True)
class Pose:
    """Where the vehicle stands in the image; lengths are fractions of the image size."""

    scale: float = 0.41
    center: float = 0.5
    ground: float = 0.70
    tilt_degrees: float = 0.0
    facing: Literal[-1, 1] = 1


def paint_vehicle(canvas: Image.Image, vehicle: Vehicle, palette: dict[str, Color], pose: Pose) -> None:
    """Draw onto a square RGB canvas; only pixels of the vehicle and its shadow change."""
    size = canvas.width
    angle = math.radians(pose.tilt_degrees)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [-math.sin(angle), -math.cos(angle)]])
    transform = pose.scale * size * rotation
    draw = ImageDraw.Draw(canvas, "RGBA")
    for role, points in vehicles.vehicle_shapes(vehicle):
        x, y = (transform @ (points * (pose.facing, 1)).T).round(2)
        xy = np.stack([x + pose.center * size, y + pose.ground * size], axis=1)
        draw.polygon(xy.ravel().tolist(), fill=palette[role])


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Convert HSV in 0..1 to RGB."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
    rgb = value - value * saturation * np.minimum(np.minimum(k, 4 - k), 1).clip(0)
    return tuple(int(c) for c in (255 * rgb).round())


def draw_palette(rng: np.random.Generator) -> dict[str, Color]:
    """Sample the color of each role of a ``Shape``."""
    saturation = rng.choice([rng.uniform(0.5, 0.95), rng.uniform(0.0, 0.12)], p=[0.75, 0.25])
    tint, metal, dark = rng.uniform(0.10, 0.45), rng.uniform(0.70, 0.95), rng.uniform(0.08, 0.20)
    return {
        "shadow": (0, 0, 0, int(rng.integers(60, 130))),
        "paint": hsv(rng.uniform(), saturation, rng.uniform(0.40, 0.98)),
        "shade": (0, 0, 0, int(rng.integers(18, 34))),
        "shine": (255, 255, 255, int(rng.integers(40, 110))),
        "seam": (0, 0, 0, 110),
        "tire": hsv(0.6, 0.1, 0.13),
        "rim": hsv(0.6, 0.05, metal),
        "gap": hsv(0.6, 0.1, 0.16),
        "trim": hsv(0.6, 0.1, dark),
        "glass": hsv(rng.uniform(0.5, 0.62), rng.uniform(0.15, 0.5), tint),
        "glare": (255, 255, 255, int(rng.integers(20, 70))),
        "lamp": hsv(rng.uniform(0.10, 0.17), rng.uniform(0.02, 0.3), 1.0),
        "tail": hsv(rng.uniform(-0.02, 0.02) % 1, 0.9, rng.uniform(0.65, 0.95)),
    }


def draw_scene(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw a sky, objects on the horizon and a ground: an RGB image of ``size`` x ``size`` pixels."""
    sky = [hsv(rng.uniform(), rng.uniform(0.02, 0.25), v) for v in (rng.uniform(0.7, 1), rng.uniform(0.8, 1))]
    ends = Image.fromarray(np.array(sky, dtype=np.uint8)[:, None])
    scene = ends.resize((size, size), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(scene, "RGBA")
    horizon = rng.uniform(0.5, 0.64) * size
    _draw_horizon(rng, draw, horizon, size)
    ground = hsv(rng.uniform(), rng.uniform(0, 0.2), rng.uniform(0.5, 0.85))
    draw.rectangle([0, horizon, size, size], fill=ground)
    for y in np.linspace(horizon, size, 4)[1:]:
        draw.rectangle([0, y, size, size], fill=(0, 0, 0, 14))
    return scene


def _draw_horizon(rng: np.random.Generator, draw: ImageDraw.ImageDraw, horizon: float, size: int) -> None:
    """Draw hills, houses, trees or nothing onto the horizon."""
    kind = rng.integers(4)
    hue, saturation, value = rng.uniform(), rng.uniform(0.05, 0.3), rng.uniform(0.5, 0.85)
    for x in np.arange(-0.1, 1.1, 0.17) * size + rng.uniform(0, 0.17) * size:
        fill = hsv((hue + rng.uniform(0, 0.1)) % 1, saturation, value * rng.uniform(0.7, 1.2))
        width, height = rng.uniform(0.06, 0.2) * size, rng.uniform(0.05, 0.25) * size
        if kind == 0:  # hills
            draw.ellipse([x - 2 * width, horizon - height / 2, x + 2 * width, horizon + height], fill=fill)
        elif kind == 1:  # houses
            draw.rectangle([x, horizon - height, x + width, horizon], fill=fill)
        elif kind == 2:  # trees
            trunk = [x - 0.01 * size, horizon - height, x + 0.01 * size, horizon]
            crown = [x - width / 2, horizon - height * 1.3, x + width / 2, horizon - height * 0.4]
            draw.rectangle(trunk, fill=hsv(0.08, 0.4, 0.3))
            draw.ellipse(crown, fill=fill)


def draw_image(class_name: str, image_size: int, rng: np.random.Generator) -> Image.Image:
    """Draw one image of a class with a random scene, paint and pose."""
    canvas = draw_scene(rng, 3 * image_size)
    pose = Pose(
        scale=rng.uniform(0.42, 0.47),
        center=rng.uniform(0.48, 0.52),
        ground=rng.uniform(0.68, 0.75),
        tilt_degrees=rng.uniform(-3, 3),
        facing=1 if rng.uniform() < 0.5 else -1,
    )
    paint_vehicle(canvas, CLASSES[class_name], draw_palette(rng), pose)
    image = canvas.reduce(3)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.6) * image_size / 80))
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.15))
    noise = rng.normal(0, rng.uniform(1, 4), (image_size, image_size, 3))
    return Image.fromarray((np.asarray(image) + noise).round().clip(0, 255).astype(np.uint8))


def write_zip(folder: Path, images_per_class: int, image_size: int, seed: int) -> Path:
    """Write ``sample.zip`` with ``vehicles/<class>/0001.jpg`` and so on.

    The same arguments give the same bytes. Each image is a function of (seed, class, index) alone, so that
    a larger ``images_per_class`` leaves the existing images as they are.

    Args:
        image_size: width and height of every image in pixels.

    Returns:
        The file, which is written completely or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    upper_bound = len(CLASSES) * images_per_class * image_size**2  # one byte a pixel; JPEGs need less
    disk.require_free_space(folder, upper_bound, "the sample")
    file = folder / "sample.zip"
    jobs = [(name, index) for name in CLASS_NAMES for index in range(images_per_class)]
    with (
        file_io.replace_file(file) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, index in log.progress_bar(jobs, total=len(jobs), label="drawing"):
            rng = np.random.default_rng([seed, CLASS_NAMES.index(name), index])
            content = io.BytesIO()
            draw_image(name, image_size, rng).save(content, "JPEG", quality=92)
            info = reproducible_zip_info(f"vehicles/{name}/{index + 1:04d}.jpg")
            archive.writestr(info, content.getvalue())
    return file
