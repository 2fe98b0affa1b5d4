"""What a trained model says of photos: ``finegrain predict``.

A photo is decoded, squashed to the pack's square and resized as stage pack and evaluate do, in batches of the
same size, so that it gets the very logits that evaluate computed.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

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
"""A photo and its file's bytes, or why they cannot be read."""


class Predictor:
    """A trained model, ready to be asked."""

    def __init__(
        self, weights: Path, sidecar: Path, device: torch.device, bf16: bool, side: int | None, flip: bool
    ) -> None:
        """Load it.

        Args:
            side: of the images it sees; None: of its training.
            flip: average with the mirror image.
        """
        net, facts = storage.load_model(weights, sidecar)
        self._net, self._bf16, self._flip = net.to(device).eval(), bf16, flip
        self._device = device
        self.classes: list[str] = facts["classes"]
        self.temperature: float = facts["temperature"]
        self.unknown_below: float = facts["unknown_below"]
        """Confidence under which a photo is like no class of these."""
        self._pack_side: int = facts["pack_image_size"]
        self._view = inference.Preprocessor(side or facts["image_size"], device, facts["mean"], facts["std"])

    @classmethod
    def from_pretrained(
        cls,
        place: str | Path,
        *,
        revision: str | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: Literal["auto", "fp32", "bf16"] = "auto",
    ) -> "Predictor":
        """A model that `finegrain export` wrote, as `finegrain predict` asks it.

        Args:
            place: the folder, or ``owner/name`` of a repository on the Hugging Face Hub.
            revision: branch, tag or commit of the repository; None: its main branch.

        Raises:
            UserError: there is no such model, or its files do not fit each other.
        """
        weights, sidecar = paths.exported_model(hub.find_model_folder(place, revision))
        on = devices.select_device(device)
        return cls(weights, sidecar, on, devices.use_bf16(precision, on), side=None, flip=False)

    def __call__(self, photo: str | Path | bytes, top: int = 5) -> list[tuple[str, float]]:
        """The most probable classes of one photo, a file or its bytes, with calibrated probabilities.

        Raises:
            OSError: the file cannot be read.
            picture.BadImage: it is no image that can be used.
        """
        name = "photo" if isinstance(photo, bytes) else str(photo)
        data = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
        skipped: list[tuple[str, str]] = []
        for _, logits in self.logits([(Photo(name, name), data)], skipped):
            return self.best(logits, top)
        raise decoding.BadImage(": ".join(skipped[0]))

    def heat(self, photo: bytes, name: str) -> tuple[ImageArray, ImageArray]:
        """The photo as the network sees it, ``[S, S, 3]``, and under its Grad-CAM of the class of that name.

        Raises:
            picture.BadImage: it is no image that can be used.
        """
        square = np.array(decoding.decode_square(photo, self._pack_side))  # torch wants it writable
        images, chosen = self._view(torch.from_numpy(square[None])), self.classes.index(name)
        (heat,) = gradcam.heatmaps(self._net, images, torch.tensor([chosen]))
        return square, gradcam.overlay(square, heat)

    def logits(self, items: Iterable[Item], skipped: list[tuple[str, str]]) -> Iterator[tuple[Photo, Floats]]:
        """Each photo and its logits ``[classes]``; adds (name, reason) of those that cannot be used."""
        for batch in self.batches(items, skipped):
            images = self._view(torch.from_numpy(np.stack([square for _, square in batch])))
            logits = inference.predict_logits(self._net, images, self._bf16, self._flip).cpu().numpy()
            yield from zip((photo for photo, _ in batch), logits.astype(np.float64), strict=True)

    def batches(
        self, items: Iterable[Item], skipped: list[tuple[str, str]]
    ) -> Iterator[list[tuple[Photo, ImageArray]]]:
        """Photos that can be used, decoded, as many at a time as evaluate asks about.

        Threads decode: while a GPU works on the batch before; but on the CPU in between, where a core that
        decodes holds up all the others that the network keeps busy.
        """
        in_between = self._device.type == "cpu"
        threads, size = os.cpu_count() or 1, inference.BATCH_SIZE
        source: Iterator[Any] = iter(items)
        if not in_between:
            source = parallel.map_in_order(self._square, source, threads, 2 * size)
        while True:
            batch: list[tuple[Photo, ImageArray]] = []
            while missing := size - len(batch):
                some = itertools.islice(source, missing)
                found = list(
                    parallel.map_in_order(self._square, some, threads, missing) if in_between else some
                )
                if not found:
                    break
                skipped.extend((photo.name, reason) for photo, reason in found if isinstance(reason, str))
                batch.extend(each for each in found if not isinstance(each[1], str))
            if not batch:
                return
            yield batch

    def _square(self, item: Item) -> tuple[Photo, ImageArray | str]:
        """The photo as stage pack stores it, or why it cannot be used."""
        photo, data = item
        if isinstance(data, str):
            return photo, data
        try:
            return photo, np.asarray(decoding.decode_square(data, self._pack_side))
        except decoding.BadImage as error:
            return photo, str(error)

    def best(self, logits: Floats, k: int) -> list[tuple[str, float]]:
        """The k most probable classes of one photo, with calibrated probabilities."""
        p = np.exp(outputs.log_softmax(logits[None] / self.temperature))[0]
        return [(self.classes[i], float(p[i])) for i in np.argsort(-p, kind="stable")[:k]]
