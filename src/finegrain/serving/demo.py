"""The command ``finegrain demo``: a web page on this machine that classifies photos dropped on it.

Gradio draws the page. The server listens on 127.0.0.1 only, and a Content-Security-Policy keeps the browser
from loading anything from other addresses.
"""

import argparse
import functools
import io
import os
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finegrain import optional_deps
from finegrain.core import file_io, log, paths
from finegrain.core.errors import UserError
from finegrain.loading.batches import ImageArray
from finegrain.runtime import devices
from finegrain.serving import find_model
from finegrain.serving.inputs import Photo
from finegrain.serving.predictor import Predictor

HOST = "127.0.0.1"
TOP_K, NEAREST_CLASSES, PHOTOS_PER_CLASS, EXAMPLES = 5, 3, 3, 8
MIN_SHOWN_PIXELS = 256
"""Smallest width and height of a photo on the page."""

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio and huggingface_hub read these when imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"


@dataclass(frozen=True)
class PhotoResult:
    """What the page shows for one photo."""

    text: str
    """Markdown: the most probable class and its probability, or why the file cannot be used."""
    top: dict[str, float]
    """Class -> calibrated probability, most probable first; empty if the file cannot be used."""
    image: ImageArray | None
    """The photo as the model sees it."""
    gradcam: ImageArray | None
    """The same with the Grad-CAM of the most probable class on it."""


def classify_photo(predictor: Predictor, photo: bytes) -> PhotoResult:
    """Classify a photo for the page; an unusable file gets an explanation instead."""
    skipped: list[tuple[str, str]] = []
    results = list(predictor.logits([(Photo("photo", "photo"), photo)], skipped))
    if not results:
        return PhotoResult(f"### This file cannot be used\n{skipped[0][1]}", {}, None, None)
    top = predictor.top_classes(results[0][1], TOP_K)
    name, confidence = top[0]
    text = f"### {name}\n{confidence:.0%} sure"
    if predictor.is_unknown(top):
        text = (
            f"### Unknown\nThe nearest class is {name}, {confidence:.0%} sure; 95% of correct predictions "
            f"are at least {predictor.unknown_below:.0%} sure."
        )
    return PhotoResult(text, dict(top), *map(_enlarge, predictor.gradcam_overlay(photo, name)))


class DatasetPhotos:
    """Photos of the dataset for the page; none if the pack is not on this machine."""

    def __init__(self, pack: Path) -> None:
        """Open the folder that stage pack wrote."""
        self._splits: dict[str, tuple[Any, Any]] = {}
        self.classes: list[str] = []
        if (pack / "pack.json").is_file():
            self.classes = file_io.read_json(pack / "pack.json")["classes"]
            for split in ("train", "test"):
                labels = np.load(pack / f"{split}_labels.npy")
                self._splits[split] = np.load(pack / f"{split}.npy", mmap_mode="r"), labels

    def training_photos(self, class_names: Sequence[str]) -> list[tuple[ImageArray, str]]:
        """``PHOTOS_PER_CLASS`` training photos of each class, with the class name."""
        known = [name for name in class_names if name in self.classes]
        return [photo for name in known for photo in self._photos("train", name, PHOTOS_PER_CLASS)]

    def test_examples(self) -> list[tuple[ImageArray, str]]:
        """One test photo of up to ``EXAMPLES`` classes, spread over all classes, with the class name."""
        step = -(-len(self.classes) // EXAMPLES) or 1
        return [photo for name in self.classes[::step] for photo in self._photos("test", name, 1)]

    def _photos(self, split: str, class_name: str, count: int) -> Iterator[tuple[ImageArray, str]]:
        images, labels = self._splits[split]
        for index in np.flatnonzero(labels == self.classes.index(class_name))[:count]:
            yield np.array(images[index]), class_name


LoadModel = Callable[[str | None], tuple[Predictor, DatasetPhotos]]
"""Loads a model by name, None meaning the leaderboard's winner, with the photos of its dataset."""


def model_choices() -> dict[str, str]:
    """Models to choose from, in the leaderboard's order: text on the page -> name for ``find_model``."""
    file = paths.LEADERBOARD
    if not file.is_file():
        return {}
    board = file_io.read_json(file)["models"]
    return {f"{name} ({row['test_top1']:.1%} test top-1)": name for name, row in board.items()}


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: there is no such model, or the port is in use.
    """
    with optional_deps.required_for("`finegrain demo`"):
        import uvicorn

        from finegrain.serving import demo_page
    require_free_port(args.port)
    load = model_loader(args.device)
    choices = model_choices()
    start = args.model or next(iter(choices.values()), None)
    if start and start not in choices.values():
        choices = {start: start, **choices}
    app = demo_page.build_app(demo_page.build_page(load, choices, start))
    address = f"http://{HOST}:{args.port}"
    log.info(f"{address}  (Ctrl-C stops it)")
    # in a thread, as a text browser would block; a second later, when the server is up
    opening = threading.Timer(1.0, webbrowser.open, [address])
    opening.daemon = True
    opening.start()
    uvicorn.run(app, host=HOST, port=args.port, log_level="warning")
    return 0


def require_free_port(port: int) -> None:
    """Check that the server can listen on the port.

    Raises:
        UserError: it cannot.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"port {port}: {error.strerror}; give another one with --port") from None


def model_loader(device: devices.DeviceName) -> LoadModel:
    """A function that loads a model and keeps up to eight of them in memory."""
    on = devices.select_device(device, "--device")

    @functools.lru_cache(maxsize=8)
    def load(name: str | None) -> tuple[Predictor, DatasetPhotos]:
        weights, sidecar = find_model.find_model(name)
        settings = find_model.evaluation_settings(name)  # those of `finegrain predict`
        dtype = devices.autocast_dtype(settings["precision"], on)
        predictor = Predictor(weights, sidecar, on, dtype, settings["image_size"], settings["flip"])
        # the first prediction is slow: it allocates memory and chooses kernels
        classify_photo(predictor, encode_png(np.zeros((8, 8, 3), np.uint8)))
        return predictor, DatasetPhotos(paths.Dataset(weights.parent.name).pack)

    return load


def _enlarge(image: ImageArray) -> ImageArray:
    """Resize a square image to at least ``MIN_SHOWN_PIXELS``, so that a small one is not tiny on the page."""
    size = max(MIN_SHOWN_PIXELS, len(image))
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def encode_png(image: ImageArray) -> bytes:
    """An image ``[H, W, 3]`` uint8 as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="png")
    return stream.getvalue()
