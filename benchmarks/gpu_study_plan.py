"""Which runs benchmarks/gpu_study.py makes, the most important first, and for how many epochs."""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from gpu_study_table import BEST, EPOCHS, REFERENCE, TIME, label

RESUME = "resume"
MARGIN = 0.93
"""Share of a run's time limit that is planned for: epochs vary, and checkpoints take time."""
Work = tuple[str, Callable[[], bool]]
"""Name and function of a piece of work; the function returns False if something that it needs is missing."""


class Runs(Protocol):
    """What carries out the work (``gpu_study.Study``)."""

    def train(self, kind: str, model: str, seed: int) -> bool: ...

    def train_best(self, seed: int) -> bool: ...

    def resume(self, kind: str, model: str) -> bool: ...


def plan(study: Runs, args: argparse.Namespace) -> Iterator[Work]:
    """Yield all work, the most important first."""
    first, *others = args.models
    seed, *more = args.seeds

    def train(kind: str, model: str, seed: int = seed) -> Iterator[Work]:
        if kind in args.kinds:
            name = label({"kind": kind, "model": model, "seed": seed})
            yield name, partial(study.train, kind, model, seed)

    def resume(kind: str, model: str) -> Iterator[Work]:
        if RESUME in args.kinds and kind in args.resume_kinds:
            yield (
                f"resumed run of {label({'kind': kind, 'model': model})}",
                partial(study.resume, kind, model),
            )

    for kind in (REFERENCE, EPOCHS, TIME):
        yield from train(kind, first)
    yield from resume(EPOCHS, first)
    for model in others:
        yield from train(REFERENCE, model)
    for number, model in enumerate(others):
        if number == 1 and BEST in args.kinds:
            yield label({"kind": BEST, "seed": seed}), partial(study.train_best, seed)
        for kind in (EPOCHS, TIME):
            yield from train(kind, model)
    if len(others) < 2 and BEST in args.kinds:
        yield label({"kind": BEST, "seed": seed}), partial(study.train_best, seed)
    yield from resume(REFERENCE, first)
    for model in others:
        yield from resume(EPOCHS, model)
    for another in more:
        for model in args.models:
            for kind in (REFERENCE, EPOCHS, TIME):
                yield from train(kind, model, another)


def epochs_within(seconds: float, known: dict[str, Any], image_sizes: Sequence[int]) -> int:
    """Number of epochs that fit into ``seconds``, including start and end of the process.

    Args:
        known: a run of the same network and recipe at one image size. The cost of larger images is assumed to
            be proportional to their pixels; in fact it is a little less.
        image_sizes: the first and the last one.
    """
    each, reached = epoch_seconds(known), known["reached_seconds"]
    around = known["wall_seconds"] - each * len(reached)
    first, last, known_size = image_sizes[0], image_sizes[-1], known["image_size"][0]
    each *= (first**2 + first * last + last**2) / (3 * known_size**2)
    return max(1, int((MARGIN * seconds - around) / each))


def epoch_seconds(known: dict[str, Any]) -> float:
    """Median seconds of the epochs after the first, validation included."""
    reached = known["reached_seconds"]
    later = [after - before for before, after in zip(reached, reached[1:], strict=False)]
    return statistics.median(later) if later else known["wall_seconds"]
