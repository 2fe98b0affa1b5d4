"""Load a trained model and classify photos with it.

A photo is decoded, fitted to the pack's square image size and preprocessed exactly as in the stages pack and
evaluate, in batches of the same size: the logits of a test image equal evaluate's bit for bit.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from finegrain.config.base import ImageFit
from finegrain.core import parallel, paths
from finegrain.dataset import decoding
from finegrain.evaluation import gradcam
from finegrain.loading.batches import ImageArray
from finegrain.models import inference, outputs, storage
from finegrain.models.outputs import Floats
from finegrain.runtime import devices
from finegrain.serving import hub
from finegrain.serving.inputs import Photo

Item = tuple[Photo, bytes | str]
"""A photo with the bytes of its file, or with the reason why it cannot be read."""


class Predictor:
    """A trained model that classifies photos."""

    def __init__(
        self,
        weights: Path,
        sidecar: Path,
        device: torch.device,
        dtype: torch.dtype,
        image_size: int | None,
        flip: bool,
    ) -> None:
        """Load the model.

        Args:
            dtype: what the network is autocast to; float32 means no autocast.
            image_size: height and width of the network's input; None means the one of its training.
            flip: average the logits of each photo and of its horizontal flip.
        """
        net, metadata = storage.load_model(weights, sidecar)
        self._net, self._dtype, self._flip = devices.place(net, device).eval(), dtype, flip
        self._device = device
        self.classes: list[str] = metadata["classes"]
        self.temperature: float = metadata["temperature"]
        self.unknown_below: float = metadata["unknown_below"]
        """A photo predicted with less confidence than this is probably of none of the classes."""
        self._pack_size: int = metadata["pack_image_size"]
        self._pack_fit: ImageFit = metadata["pack_fit"]
        self._preprocess = inference.Preprocessor(
            image_size or metadata["image_size"], device, metadata["mean"], metadata["std"]
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: devices.DeviceName = "auto",
        precision: devices.Precision = "auto",
    ) -> "Predictor":
        """Load a model that `finegrain export` wrote, with the settings of `finegrain predict`.

        Args:
            name_or_path: the folder, or ``owner/name`` of a repository on the Hugging Face Hub.
            revision: branch, tag or commit of the repository; None means its main branch.

        Raises:
            UserError: there is no such model, or its files do not fit each other.
        """
        weights, sidecar = paths.exported_model(hub.find_model_folder(name_or_path, revision))
        on = devices.select_device(device)
        dtype = devices.autocast_dtype(precision, on)
        return cls(weights, sidecar, on, dtype, image_size=None, flip=False)

    def __call__(self, photo: str | Path | bytes, top: int = 5) -> list[tuple[str, float]]:
        """Classify one photo, a file or its bytes: the most probable classes with calibrated probabilities.

        Raises:
            OSError: the file cannot be read.
            decoding.BadImage: it is not a usable image.
        """
        name = "photo" if isinstance(photo, bytes) else str(photo)
        data = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
        skipped: list[tuple[str, str]] = []
        for _, logits in self.logits([(Photo(name, name), data)], skipped):
            return self.top_classes(logits, top)
        raise decoding.BadImage(": ".join(skipped[0]))

    def top_classes(self, logits: Floats, count: int) -> list[tuple[str, float]]:
        """The most probable classes of one photo with calibrated probabilities, most probable first."""
        p = np.exp(outputs.log_softmax(logits[None] / self.temperature))[0]
        return [(self.classes[i], float(p[i])) for i in np.argsort(-p, kind="stable")[:count]]

    def is_unknown(self, top: list[tuple[str, float]]) -> bool:
        """Whether a photo with these most probable classes is probably of none of the classes."""
        return top[0][1] < self.unknown_below

    def gradcam_overlay(self, photo: bytes, class_name: str) -> tuple[ImageArray, ImageArray]:
        """The photo at the pack's image size, ``[S, S, 3]``, without and with its Grad-CAM of a class on it.

        Raises:
            decoding.BadImage: it is not a usable image.
        """
        image = np.array(self._decode_square(photo))  # a copy: torch wants it writable
        inputs, class_id = self._preprocess(torch.from_numpy(image[None])), self.classes.index(class_name)
        (heatmap,) = gradcam.heatmaps(self._net, inputs, torch.tensor([class_id]))
        return image, gradcam.overlay(image, heatmap)

    def logits(self, items: Iterable[Item], skipped: list[tuple[str, str]]) -> Iterator[tuple[Photo, Floats]]:
        """Yield each usable photo with its logits ``[classes]``, float64.

        Args:
            skipped: (name, reason) of each unusable photo is appended to it.
        """
        for batch in self.batches(items, skipped):
            images = self._preprocess(torch.from_numpy(np.stack([image for _, image in batch])))
            logits = inference.predict_logits(self._net, images, self._dtype, self._flip).cpu()
            inference.require_no_overflow(logits, self._dtype)
            yield from zip((photo for photo, _ in batch), logits.numpy().astype(np.float64), strict=True)

    def batches(
        self, items: Iterable[Item], skipped: list[tuple[str, str]]
    ) -> Iterator[list[tuple[Photo, ImageArray]]]:
        """Yield the usable photos, decoded, in batches of evaluate's size; ``skipped`` as for ``logits``."""
        batch: list[tuple[Photo, ImageArray]] = []
        for photo, image in self._decoded(items):
            if isinstance(image, str):
                skipped.append((photo.name, image))
                continue
            batch.append((photo, image))
            if len(batch) == inference.BATCH_SIZE:
                yield batch
                batch = []
        if batch:
            yield batch

    def _decoded(self, items: Iterable[Item]) -> Iterator[tuple[Photo, ImageArray | str]]:
        """Yield each photo decoded, or with the reason why it is unusable; threads decode.

        With a GPU they decode ahead, while the network runs. On the CPU they decode a batch before the
        network runs on it: all cores work on the network, and one that decodes would hold up the others.
        """
        threads, size = os.cpu_count() or 1, inference.BATCH_SIZE
        if self._device.type != "cpu":
            yield from parallel.map_in_order(self._decode, items, threads, 2 * size)
            return
        source = iter(items)
        while chunk := list(itertools.islice(source, size)):
            yield from list(parallel.map_in_order(self._decode, chunk, threads, size))

    def _decode(self, item: Item) -> tuple[Photo, ImageArray | str]:
        """Decode a photo as stage pack does; if it is unusable, give the reason."""
        photo, data = item
        if isinstance(data, str):
            return photo, data
        try:
            return photo, np.asarray(self._decode_square(data))
        except decoding.BadImage as error:
            return photo, str(error)

    def _decode_square(self, data: bytes) -> Image.Image:
        """Decode a photo as the training's stage pack did."""
        return decoding.decode_square(data, self._pack_size, self._pack_fit)
