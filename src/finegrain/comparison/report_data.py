"""What the report shows, read from the files that earlier stages wrote."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from finegrain.comparison import plots
from finegrain.comparison.leaderboard import Leaderboard
from finegrain.comparison.next_steps import MOST_STEPS, Step, next_steps, trained_by_epochs
from finegrain.core import file_io, paths
from finegrain.evaluation import car_groups, class_plots, metrics, plot_style, predictions
from finegrain.evaluation.car_groups import GroupRow

CONFUSED_PAIRS = 12
"""Most confused pairs of classes in the table of each model."""
LARGEST_GAINS = 10
"""Classes in the table of what more training images bring."""


@dataclass(frozen=True)
class SolvedFigures:
    """What the leave-one-out predictions of a solved head say about the training images."""

    images: int
    top1: float
    low: float
    """95 % interval of ``top1``."""
    high: float
    curve: bytes
    """Plot of the learning curve."""
    gains: Sequence[tuple[str, float, float]]
    """Class, top-1 with half of the training images and with all, the largest gains first."""


@dataclass(frozen=True)
class ModelFigures:
    """What the report shows about one model; plots are PNG bytes."""

    model: str
    confusion: bytes
    reliability: bytes
    per_class: bytes
    confused_pairs: Sequence[tuple[str, str, int, int]]
    """True class, predicted class, mistakes, images of the true class."""
    gallery: dict[str, Any]
    """``gallery.Gallery`` as JSON data."""
    groups: Sequence[tuple[str, dict[str, float], Sequence[GroupRow]]]
    """Kind (make, body, year), ``group_summary`` and ``group_table``; empty for classes that are not cars."""
    lr_range: Sequence[tuple[str, bytes]]
    """Phase and plot of each LR range test."""
    solved: SolvedFigures | None
    """None if no phase of the training was solved."""


@dataclass(frozen=True)
class ReportData:
    """All that the report shows; plots are PNG bytes."""

    dataset: str
    rows: Sequence[dict[str, Any]]
    """``Leaderboard.rows``, winner first."""
    pairs: Sequence[dict[str, Any]]
    """``Leaderboard.pairs``."""
    runs: Sequence[dict[str, Any]]
    """``Leaderboard.runs``."""
    steps: Sequence[Step]
    """What is worth trying next."""
    curves: bytes | None
    """None where no model has more than one epoch."""
    accuracy_vs_time: bytes | None
    """None where there is one model only."""
    models: Sequence[ModelFigures]
    class_balance: bytes
    split: dict[str, Any]
    """reports/<name>/split.json."""
    source: dict[str, Any]
    """reports/<name>/source.json."""
    rejected: Sequence[tuple[str, str]]
    """Path and reason of each image left out."""
    near_duplicates: Sequence[tuple[str, str, int]]
    """Path of the test image, path of the other image, and how many bits of their hashes differ."""
    parameters: str
    """params.yaml as text."""
    environment: dict[str, Any]
    """Git revision, software and hardware of the winner's run."""
    choose_by: str = "top1"
    """``Leaderboard.choose_by``."""
    seed_matters: bool = True
    """False where every phase was solved: another seed gives the same head."""


def read_report_data(
    dataset: str,
    board: Leaderboard,
    best_runs: Mapping[str, paths.Run],
    curves: bytes | None,
    accuracy_vs_time: bytes | None,
) -> ReportData:
    """Read everything else that the report shows.

    Args:
        best_runs: maps each model to the run whose plots and images are shown, winner first.
    """
    data, best = paths.Dataset(dataset), best_runs[board.winner]
    metadata, split = file_io.read_json(best.sidecar), file_io.read_json(data.split_summary)
    val_top1 = read_table(best.history)["val_top1"].tolist()
    suspects = int((read_table(best.doubtful_labels)["suspect"] == "yes").sum())
    curve = _learning_curve(metadata)
    steps = next_steps(board.rows, board.pairs, split, metadata["recipe"], val_top1, suspects, curve)
    balance = class_plots.class_balance_plot(read_table(data.class_balance))
    return ReportData(
        dataset=dataset,
        rows=board.rows,
        pairs=board.pairs,
        runs=board.runs,
        steps=list(steps)[:MOST_STEPS],
        curves=curves,
        accuracy_vs_time=accuracy_vs_time,
        models=[read_model_figures(run) for run in best_runs.values()],
        class_balance=plot_style.render_png(balance),
        split=split,
        source=file_io.read_json(data.source),
        rejected=read_table(data.rejected).to_records(index=False).tolist(),
        near_duplicates=read_table(data.near_duplicates).to_records(index=False).tolist(),
        parameters=paths.PARAMS.read_text(encoding="utf-8-sig"),
        environment={"revision": metadata["revision"], **metadata["environment"]},
        choose_by=board.choose_by,
        seed_matters=trained_by_epochs(metadata["recipe"]),
    )


def read_model_figures(run: paths.Run) -> ModelFigures:
    """Read the plots, the gallery and the predictions of one run."""
    table, per_class = predictions.read_predictions(run.predictions), read_table(run.per_class)
    names = per_class["class"].tolist()
    ids = {name: index for index, name in enumerate(names)}
    labels = np.array([ids[name] for name in table["class"]])
    predicted = np.array([ids[name] for name in table["class_1"]])
    return ModelFigures(
        model=run.model,
        confusion=run.confusion.read_bytes(),
        reliability=run.reliability.read_bytes(),
        per_class=plot_style.render_png(class_plots.per_class_recall_plot(per_class)),
        confused_pairs=metrics.confused_pairs(labels, predicted, names, CONFUSED_PAIRS),
        gallery=file_io.read_json(run.gallery),
        groups=[
            (
                kind,
                car_groups.group_summary(groups, labels, predicted),
                car_groups.group_table(groups, labels, predicted),
            )
            for kind, groups in car_groups.from_class_names(names).items()
        ],
        lr_range=list(_lr_range_plots(run)),
        solved=_solved_figures(run, names),
    )


def _solved_figures(run: paths.Run, names: Sequence[str]) -> SolvedFigures | None:
    """Read the leave-one-out accuracy and the learning curve of a run's last solved phase."""
    metadata = file_io.read_json(run.sidecar)
    if not metadata["solved"]:
        return None
    images, top1 = metadata["leave_one_out"]["images"], metadata["leave_one_out"]["top1"]
    low, high = metrics.wilson_interval(top1 * images, images)
    curve, gains = _learning_curve(metadata), []
    if len(curve) > 1:
        by_class = zip(names, curve[-2]["top1_by_class"], curve[-1]["top1_by_class"], strict=True)
        gains = [row for row in by_class if None not in row and row[2] > row[1]]
    return SolvedFigures(
        images, top1, low, high,
        curve=plot_style.render_png(plots.learning_curve_plot(curve)),
        gains=sorted(gains, key=lambda row: row[1] - row[2])[:LARGEST_GAINS],
    )  # fmt: skip


def _learning_curve(metadata: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Learning curve of the last phase that was solved; empty if none was."""
    solved = list(metadata["solved"].values())
    return solved[-1]["learning_curve"] if solved else []


def _lr_range_plots(run: paths.Run) -> Iterator[tuple[str, bytes]]:
    """Phase and plot of each LR range test of a run."""
    metadata = file_io.read_json(run.sidecar)
    for phase, suggestions in metadata["lr_suggestions"].items():
        points = pd.read_csv(run.lr_range / f"{phase}.csv")
        figure = plots.lr_range_plot(phase, points, suggestions, metadata["lr"][phase])
        yield phase, plot_style.render_png(figure)


def read_table(file: Path) -> pd.DataFrame:
    """Read a CSV without changing text: a class may be named NA or 007, and a phase null or 1."""
    return pd.read_csv(file, keep_default_na=False, dtype={"class": str, "phase": str})
