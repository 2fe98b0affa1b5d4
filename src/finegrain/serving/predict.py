"""The command ``finegrain predict``: classify photos and write a table, CSV or JSON lines."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from finegrain.core import file_io, log
from finegrain.evaluation import metrics
from finegrain.runtime import devices
from finegrain.serving import find_model, inputs
from finegrain.serving.labels import Labels
from finegrain.serving.predictor import Predictor


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


def run(args: argparse.Namespace) -> int:
    """Predict, write, and say what was skipped; returns the exit status: 1 where a photo was."""
    asked = {
        name: value if getattr(args, name) is None else getattr(args, name)
        for name, value in find_model.evaluation_settings(args.model).items()
    }
    on = devices.select_device(asked["device"])
    bf16 = devices.use_bf16(asked["precision"], on)
    predictor = Predictor(*find_model.find_model(args.model), on, bf16, asked["image_size"], asked["flip"])
    sources = inputs.find_photos(args.paths)
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
    with open_output(args.out) as stream:
        write = WRITERS[args.format](stream, min(args.top, len(predictor.classes)))
        found = log.progress_bar(predictor.logits(wanted, skipped), total=total, label="predict")
        for photo, logits in found:
            best = predictor.best(logits, args.top)
            label = labels.of(photo) if labels else None
            write(Prediction(photo.name, best, label))
            count += 1
            correct += label == best[0][0]
            in_top += label in [name for name, _ in best]
    if labels and count:
        low, high = metrics.wilson_interval(correct, count)
        log.info(
            f"top-1 {correct / count:.2%} [{low:.1%}, {high:.1%}] of {count:,} photos with a label, "
            f"top-{args.top} {in_top / count:.2%}"
        )
    for name, reason in skipped:
        log.info(f"skipped: {name}: {reason}")
    return int(bool(skipped))


@contextlib.contextmanager
def open_output(file: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that appears whole."""
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
    """A photo a line, for people."""

    def write(one: Prediction) -> None:
        mark = "" if one.correct is None else ("  right" if one.correct else f"  wrong: {one.label}")
        best = "  ".join(f"{p:6.1%} {name}" for name, p in one.top)
        print(f"{one.name}  {best}{mark}", file=stream)

    return write


def csv_writer(stream: IO[str], top: int) -> Write:
    """image, class_1, p_1, class_2, ..., label, correct; the last two are empty without a label."""
    writer = file_io.csv_writer(stream)
    ranks = [f"{kind}_{rank}" for rank in range(1, top + 1) for kind in ("class", "p")]
    writer.writerow(["image", *ranks, "label", "correct"])

    def write(one: Prediction) -> None:
        cells = [cell for name, p in one.top for cell in (name, f"{p:.6g}")]
        writer.writerow([one.name, *cells, one.label or "", "" if one.correct is None else one.correct])

    return write


def jsonl_writer(stream: IO[str], top: int) -> Write:
    """An object a line: image, top (a list of class and probability), and label and correct where known."""

    def write(one: Prediction) -> None:
        best = [{"class": name, "probability": p} for name, p in one.top]
        facts: dict[str, Any] = {"image": one.name, "top": best}
        if one.label is not None:
            facts |= {"label": one.label, "correct": one.correct}
        print(json.dumps(facts, ensure_ascii=False), file=stream)

    return write


WRITERS: dict[str, Callable[[IO[str], int], Write]] = {
    "table": table_writer,
    "csv": csv_writer,
    "jsonl": jsonl_writer,
}
