"""The command ``finegrain predict``: classify photos and write a table, CSV or JSON lines."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from finegrain.core import file_io, log
from finegrain.core.errors import some
from finegrain.evaluation import metrics
from finegrain.runtime import devices
from finegrain.serving import find_model, inputs
from finegrain.serving.inputs import Photo, PhotoSource
from finegrain.serving.labels import Labels
from finegrain.serving.predictor import Predictor

MAX_SKIPPED = 20
"""Files whose reason is printed."""


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one photo."""

    name: str
    top: list[tuple[str, float]]
    """Classes and their calibrated probabilities, most probable first."""
    unknown: bool
    """The photo is probably of none of the classes: less sure than 95 % of the correct predictions."""
    label: str | None
    """The true class; None if the user gave none."""

    @property
    def correct(self) -> bool | None:
        return None if self.label is None else self.label == self.top[0][0]


@dataclass
class Accuracy:
    """Counts of correct predictions, over photos with a label."""

    images: int = 0
    correct: int = 0
    in_top: int = 0

    def add(self, prediction: Prediction) -> None:
        self.images += 1
        self.correct += prediction.correct is True
        self.in_top += prediction.label in [name for name, _ in prediction.top]

    def summary(self, top: int) -> str:
        """One line: top-1 accuracy with Wilson's 95 % interval, and top-k accuracy."""
        low, high = metrics.wilson_interval(self.correct, self.images)
        return (
            f"top-1 {self.correct / self.images:.2%} [{low:.1%}, {high:.1%}] of {self.images:,} photos with "
            f"a label, top-{top} {self.in_top / self.images:.2%}"
        )


def run(args: argparse.Namespace) -> int:
    """Classify the photos, write the predictions and report what was skipped; returns 1 if anything was."""
    predictor = load_predictor(args)
    sources = inputs.find_photos(args.paths)
    labels = Labels(args.csv, args.image_col, args.label_col, predictor.classes) if args.csv else None
    skipped = [(str(s.path), s.reader.damage) for s in sources if s.reader and s.reader.damage]
    skipped += [(str(s.path), f"not read: {photos}") for s in sources if (photos := s.ignored.photos())]
    for source in sources:
        if others := source.ignored.others():
            log.info(f"{source.path}: ignored files that are no photos: {others}")
    if labels and (missing := labels.missing([photo for s in sources for photo in s.photos])):
        skipped.append((str(args.csv), f"{len(missing)} of its images were not found: {some(missing)}"))
    accuracy, unknown = Accuracy(), 0
    with open_output(args.out) as stream:
        write = WRITERS[args.format](stream, min(args.top, len(predictor.classes)))
        for prediction in classify(predictor, sources, labels, args.top, skipped):
            write(prediction)
            unknown += prediction.unknown
            if labels:
                accuracy.add(prediction)
    if accuracy.images:
        log.info(accuracy.summary(args.top))
    if unknown:
        log.info(f"unknown: {unknown:,} photos, less than {predictor.unknown_below:.0%} sure of any class")
    for name, reason in skipped[:MAX_SKIPPED]:
        log.info(f"skipped: {name}: {reason}")
    if len(skipped) > MAX_SKIPPED:
        log.info(f"skipped: {len(skipped) - MAX_SKIPPED:,} more, {len(skipped):,} in all")
    return int(bool(skipped))


def load_predictor(args: argparse.Namespace) -> Predictor:
    """Load the model with the options of the command line; those not given are evaluate's settings."""
    settings = find_model.evaluation_settings(args.model)
    settings |= {name: getattr(args, name) for name in settings if getattr(args, name) is not None}
    device = devices.select_device(settings["device"], "--device" if args.device else "params.yaml: device:")
    dtype = devices.autocast_dtype(settings["precision"], device)
    weights, sidecar = find_model.find_model(args.model)
    return Predictor(weights, sidecar, device, dtype, settings["image_size"], settings["flip"])


def classify(
    predictor: Predictor,
    sources: Sequence[PhotoSource],
    labels: Labels | None,
    top: int,
    skipped: list[tuple[str, str]],
) -> Iterator[Prediction]:
    """Yield the prediction of each photo, in order, under a progress bar.

    Args:
        labels: classify only the photos that these list; None means all photos.
        top: number of classes in a prediction.
        skipped: (name, reason) of each unusable photo is appended to it.
    """

    def is_wanted(photo: Photo) -> bool:
        return labels is None or labels.class_of(photo) is not None

    items = (item for source in sources for item in source.read() if is_wanted(item[0]))
    total = sum(is_wanted(photo) for source in sources for photo in source.photos)
    for photo, logits in log.progress_bar(predictor.logits(items, skipped), total=total, label="predict"):
        label = labels.class_of(photo) if labels else None
        classes = predictor.top_classes(logits, top)
        yield Prediction(photo.name, classes, predictor.is_unknown(classes), label)


@contextlib.contextmanager
def open_output(file: Path | None) -> Iterator[IO[str]]:
    """Open standard output, or a file that appears under its name only when it is complete."""
    if file is None:
        yield sys.stdout
    else:
        with (
            file_io.replace_file(file) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as stream,
        ):
            yield stream


Write = Callable[[Prediction], None]


def table_writer(stream: IO[str], top: int) -> Write:
    """One line a photo, for people."""

    def write(prediction: Prediction) -> None:
        mark = "  unknown" if prediction.unknown else ""
        if prediction.correct is not None:
            mark += "  right" if prediction.correct else f"  wrong: {prediction.label}"
        classes = "  ".join(f"{p:6.1%} {name}" for name, p in prediction.top)
        print(f"{prediction.name}  {classes}{mark}", file=stream)

    return write


def csv_writer(stream: IO[str], top: int) -> Write:
    """Columns image, class_1, p_1, class_2, ..., unknown, label, correct; the last two may be empty."""
    writer = file_io.csv_writer(stream)
    ranks = [f"{kind}_{rank}" for rank in range(1, top + 1) for kind in ("class", "p")]
    writer.writerow(["image", *ranks, "unknown", "label", "correct"])

    def write(prediction: Prediction) -> None:
        classes = [cell for name, p in prediction.top for cell in (name, f"{p:.6g}")]
        correct = "" if prediction.correct is None else prediction.correct
        writer.writerow([prediction.name, *classes, prediction.unknown, prediction.label or "", correct])

    return write


def jsonl_writer(stream: IO[str], top: int) -> Write:
    """One object a line: image, top (class and probability), unknown, and with labels label and correct."""

    def write(prediction: Prediction) -> None:
        classes = [{"class": name, "probability": p} for name, p in prediction.top]
        row: dict[str, Any] = {"image": prediction.name, "top": classes, "unknown": prediction.unknown}
        if prediction.label is not None:
            row |= {"label": prediction.label, "correct": prediction.correct}
        print(json.dumps(row, ensure_ascii=False), file=stream)

    return write


WRITERS: dict[str, Callable[[IO[str], int], Write]] = {
    "table": table_writer,
    "csv": csv_writer,
    "jsonl": jsonl_writer,
}
