"""What a trained model says of photos: ``finegrain predict``.

A photo is decoded, squashed to the pack's square and resized as stage pack and evaluate do, in batches of the
same size, so that it gets the very logits that evaluate computed.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch

from finegrain import (
    answers,
    exported,
    gradcam,
    loop,
    model,
    packed,
    params,
    paths,
    photos,
    picture,
    record,
    runtime,
    scores,
)
from finegrain.answers import Floats
from finegrain.errors import UserError
from finegrain.labels import Labels
from finegrain.packed import Squares
from finegrain.photos import Photo

Item = tuple[Photo, bytes | str]
"""A photo and its file's bytes, or why they cannot be read."""


@dataclass(frozen=True)
class Prediction:
    name: str
    top: list[tuple[str, float]]
    """Classes and their calibrated probabilities, the most probable first."""
    label: str | None
    """The true class, where the user gave it."""

    @property
    def correct(self) -> bool | None:
        return None if self.label is None else self.label == self.top[0][0]


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
        net, facts = model.load(weights, sidecar)
        self._net, self._bf16, self._flip = net.to(device).eval(), bf16, flip
        self._device = device
        self.classes: list[str] = facts["classes"]
        self.temperature: float = facts["temperature"]
        self.unknown_below: float = facts["unknown_below"]
        """Confidence under which a photo is like no class of these."""
        self._pack_side: int = facts["pack_side_pixels"]
        self._view = packed.Whole(side or facts["side_pixels"], device, facts["mean"], facts["std"])

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
        weights, sidecar = paths.exported(exported.find(place, revision))
        on = runtime.device(device)
        return cls(weights, sidecar, on, runtime.bf16(precision, on), side=None, flip=False)

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
        raise picture.BadImage(": ".join(skipped[0]))

    def heat(self, photo: bytes, name: str) -> tuple[Squares, Squares]:
        """The photo as the network sees it, ``[S, S, 3]``, and under its Grad-CAM of the class of that name.

        Raises:
            picture.BadImage: it is no image that can be used.
        """
        square = np.array(picture.square(photo, self._pack_side))  # torch wants it writable
        images, chosen = self._view(torch.from_numpy(square[None])), self.classes.index(name)
        (heat,) = gradcam.heatmaps(self._net, images, torch.tensor([chosen]))
        return square, gradcam.overlay(square, heat)

    def logits(self, items: Iterable[Item], skipped: list[tuple[str, str]]) -> Iterator[tuple[Photo, Floats]]:
        """Each photo and its logits ``[classes]``; adds (name, reason) of those that cannot be used."""
        for batch in self.batches(items, skipped):
            images = self._view(torch.from_numpy(np.stack([square for _, square in batch])))
            logits = loop.forward(self._net, images, self._bf16, self._flip).cpu().numpy()
            yield from zip((photo for photo, _ in batch), logits.astype(np.float64), strict=True)

    def batches(
        self, items: Iterable[Item], skipped: list[tuple[str, str]]
    ) -> Iterator[list[tuple[Photo, Squares]]]:
        """Photos that can be used, decoded, as many at a time as evaluate asks about.

        Threads decode: while a GPU works on the batch before; but on the CPU in between, where a core that
        decodes holds up all the others that the network keeps busy.
        """
        in_between = self._device.type == "cpu"
        threads, size = os.cpu_count() or 1, loop.PREDICT_BATCH
        source: Iterator[Any] = iter(items)
        if not in_between:
            source = record.in_order(self._square, source, threads, 2 * size)
        while True:
            batch: list[tuple[Photo, Squares]] = []
            while missing := size - len(batch):
                some = itertools.islice(source, missing)
                found = list(record.in_order(self._square, some, threads, missing) if in_between else some)
                if not found:
                    break
                skipped.extend((photo.name, reason) for photo, reason in found if isinstance(reason, str))
                batch.extend(each for each in found if not isinstance(each[1], str))
            if not batch:
                return
            yield batch

    def _square(self, item: Item) -> tuple[Photo, Squares | str]:
        """The photo as stage pack stores it, or why it cannot be used."""
        photo, data = item
        if isinstance(data, str):
            return photo, data
        try:
            return photo, np.asarray(picture.square(data, self._pack_side))
        except picture.BadImage as error:
            return photo, str(error)

    def best(self, logits: Floats, k: int) -> list[tuple[str, float]]:
        """The k most probable classes of one photo, with calibrated probabilities."""
        p = np.exp(answers.log_softmax(logits[None] / self.temperature))[0]
        return [(self.classes[i], float(p[i])) for i in np.argsort(-p, kind="stable")[:k]]


_TRAINING = re.compile(r".+-\d+")
"""Of a training's name: model and seed."""


def find_model(wanted: str | None) -> tuple[Path, Path]:
    """Weights and sidecar of a file, an exported folder, a run, a model, or the leaderboard's winner.

    Args:
        wanted: such as ``file.safetensors``, ``exported/resnet18``, ``resnet18-0``, or ``resnet18``, of which
            the training is taken that is best on validation.

    Raises:
        UserError: there is none.
    """
    if wanted and wanted.endswith(".safetensors"):
        return Path(wanted), Path(wanted).with_suffix(".json")
    if wanted and _is_folder(wanted):
        return paths.exported(exported.on_disk(wanted))
    dataset = params.read().dataset.name
    if wanted and _TRAINING.fullmatch(wanted) and paths.Run.named(dataset, wanted).weights.is_file():
        name = wanted
    else:
        board = record.read_json(paths.LEADERBOARD)
        model = wanted or board["winner"]
        if model not in board["models"]:
            known = ", ".join(board["models"])
            raise UserError(f"{model}: no such model; trained are {known}, or give a .safetensors file")
        name = board["models"][model]["run"]
    run = paths.Run.named(dataset, name)
    return run.weights, run.sidecar


def _is_folder(wanted: str) -> bool:
    """An exported one; a slash says that it is meant."""
    return "/" in wanted or exported.is_one(Path(wanted))


def ways(wanted: str | None) -> dict[str, Any]:
    """How a model is asked unless the user says otherwise: the project's as evaluate asks it, others plainly.

    Args:
        wanted: as for ``find_model``.
    """
    if wanted and (wanted.endswith(".safetensors") or _is_folder(wanted)):
        return {"flip": False, "side_pixels": None, "device": "auto", "precision": "auto"}
    config = params.read()
    return {**dict(config.evaluate), "device": config.device, "precision": config.precision}


def run(args: argparse.Namespace) -> int:
    """Predict, write, and say what was skipped; returns the exit status: 1 where a photo was."""
    asked = {
        name: value if getattr(args, name) is None else getattr(args, name)
        for name, value in ways(args.model).items()
    }
    on = runtime.device(asked["device"])
    bf16 = runtime.bf16(asked["precision"], on)
    predictor = Predictor(*find_model(args.model), on, bf16, asked["side_pixels"], asked["flip"])
    sources = photos.find(args.paths)
    labels = Labels(args.csv, args.image_col, args.label_col, predictor.classes) if args.csv else None
    skipped = [(str(s.path), s.loose.damage) for s in sources if s.loose and s.loose.damage]
    wanted = (
        item
        for source in sources
        for item in source.read()
        if labels is None or labels.of(item[0]) is not None
    )
    total = sum(labels is None or labels.of(p) is not None for source in sources for p in source.photos)
    if labels and (missing := labels.missing([p for source in sources for p in source.photos])):
        skipped.append((str(args.csv), f"{missing} of its images were not found"))
    correct = in_top = count = 0
    with output(args.out) as stream:
        write = WRITERS[args.format](stream, min(args.top, len(predictor.classes)))
        found = record.progress(predictor.logits(wanted, skipped), total=total, label="predict")
        for photo, logits in found:
            best = predictor.best(logits, args.top)
            label = labels.of(photo) if labels else None
            write(Prediction(photo.name, best, label))
            count += 1
            correct += label == best[0][0]
            in_top += label in [name for name, _ in best]
    if labels and count:
        low, high = scores.wilson(correct, count)
        record.say(
            f"top-1 {correct / count:.2%} [{low:.1%}, {high:.1%}] of {count:,} photos with a label, "
            f"top-{args.top} {in_top / count:.2%}"
        )
    for name, reason in skipped:
        record.say(f"skipped: {name}: {reason}")
    return int(bool(skipped))


@contextlib.contextmanager
def output(file: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that appears whole."""
    if file is None:
        yield sys.stdout
    else:
        with record.replacing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            yield stream


Write = Callable[[Prediction], None]


def as_table(stream: IO[str], top: int) -> Write:
    """A photo a line, for people."""

    def write(one: Prediction) -> None:
        mark = "" if one.correct is None else ("  right" if one.correct else f"  wrong: {one.label}")
        best = "  ".join(f"{p:6.1%} {name}" for name, p in one.top)
        print(f"{one.name}  {best}{mark}", file=stream)

    return write


def as_csv(stream: IO[str], top: int) -> Write:
    """image, class_1, p_1, class_2, ..., label, correct; the last two are empty without a label."""
    writer = record.csv_writer(stream)
    ranks = [f"{kind}_{rank}" for rank in range(1, top + 1) for kind in ("class", "p")]
    writer.writerow(["image", *ranks, "label", "correct"])

    def write(one: Prediction) -> None:
        cells = [cell for name, p in one.top for cell in (name, f"{p:.6g}")]
        writer.writerow([one.name, *cells, one.label or "", "" if one.correct is None else one.correct])

    return write


def as_jsonl(stream: IO[str], top: int) -> Write:
    """An object a line: image, top (a list of class and probability), and label and correct where known."""

    def write(one: Prediction) -> None:
        best = [{"class": name, "probability": p} for name, p in one.top]
        facts: dict[str, Any] = {"image": one.name, "top": best}
        if one.label is not None:
            facts |= {"label": one.label, "correct": one.correct}
        print(json.dumps(facts, ensure_ascii=False), file=stream)

    return write


WRITERS: dict[str, Callable[[IO[str], int], Write]] = {"table": as_table, "csv": as_csv, "jsonl": as_jsonl}
