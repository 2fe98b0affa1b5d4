"""Rank the models: the winner by validation; every two of them by a paired test on the test images."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from finegrain.comparison import significance
from finegrain.comparison.significance import Bools
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.evaluation import predictions


@dataclass(frozen=True)
class Leaderboard:
    rows: list[dict[str, Any]]
    """One a model, best validation top-1 first (validation loss breaks ties): means over its seeds, the
    ``run`` that is best on validation, ``seeds``, ``test_top1_sd`` between them (None: there is one), and
    ``p_value`` and ``verdict`` against the winner; the winner's are None and ``winner``."""
    pairs: list[dict[str, Any]]
    """One for every two models: ``model``, ``other``, which ranks lower, ``difference`` of their test top-1
    with its 95 % interval ``low`` to ``high``, ``p_value`` and ``verdict`` on the first one."""
    runs: list[dict[str, Any]]
    """One a training, in the order of ``rows`` and of the seeds."""


def rank_models(dataset: str, models: Sequence[str], seeds: Sequence[int]) -> Leaderboard:
    """Compare the models on the same test images.

    p-values are ``paired.compare``'s, corrected by Holm for the number of pairs; a difference is called real
    where the corrected one is below 0.05.

    Raises:
        UserError: metrics or predictions are missing, or are of different test images.
    """
    trained = {model: [paths.Run(dataset, model, seed) for seed in seeds] for model in models}
    runs = {model: [_run_row(run) for run in each] for model, each in trained.items()}
    right = _correct(trained)
    rows = [_model_row(model, runs[model], right[model]) for model in models]
    rows.sort(key=validation_rank)
    order = [row["model"] for row in rows]
    pairs = _pairs({model: right[model] for model in order})
    rows[0] |= {"p_value": None, "verdict": "winner"}
    for row, pair in zip(rows[1:], pairs, strict=False):  # the winner's pairs come first
        against = pair["comparison"].reverse()
        row |= {"p_value": against.p_value, "verdict": against.verdict}
    return Leaderboard(
        rows, [_flatten_pair(pair) for pair in pairs], [run for model in order for run in runs[model]]
    )


def validation_rank(row: Mapping[str, Any]) -> tuple[float, float]:
    """Sorts models, or trainings, best first: by ``val_top1``, and where that is equal by ``val_loss``."""
    return -row["val_top1"], row["val_loss"]


def require_same_images(kept: Mapping[str, pd.DataFrame]) -> None:
    """Trainings that are compared must have been scored on the same test images.

    Args:
        kept: name of each training and its predictions.

    Raises:
        UserError: two of them were not.
    """
    first, paths_of_first = next((name, frame["path"]) for name, frame in kept.items())
    for name, frame in kept.items():
        if not frame["path"].equals(paths_of_first):
            raise UserError(f"{name} was scored on other test images than {first}; run `dvc repro`")


def _correct(trained: dict[str, list[paths.Run]]) -> dict[str, Bools]:
    """Of each model ``[seeds, N]``: which test images each of its trainings gets right."""
    kept = {
        run.name: predictions.read_predictions(run.predictions) for runs in trained.values() for run in runs
    }
    require_same_images(kept)
    return {
        model: np.stack([kept[run.name]["correct"].to_numpy() for run in runs])
        for model, runs in trained.items()
    }


def _pairs(right: dict[str, Bools]) -> list[dict[str, Any]]:
    two = list(itertools.combinations(right, 2))
    found = significance.holm_corrected(
        [significance.compare(right[model], right[other]) for model, other in two]
    )
    return [
        {"model": model, "other": other, "comparison": comparison}
        for (model, other), comparison in zip(two, found, strict=True)
    ]


def _flatten_pair(pair: dict[str, Any]) -> dict[str, Any]:
    found: significance.Comparison = pair["comparison"]
    return {
        "model": pair["model"],
        "other": pair["other"],
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
        "verdict": found.verdict,
    }


def _run_row(run: paths.Run) -> dict[str, Any]:
    quality, cost = file_io.read_json(run.metrics), file_io.read_json(run.cost)
    test = {f"test_{name}": value for name, value in quality["test"].items()}
    part = {
        "val_top1": quality["val"]["top1"],
        "val_loss": quality["val"]["loss"],
        "train_top1": quality["train"]["top1"],
    }
    return {"model": run.model, "seed": run.seed, "run": run.name, **part, **test, **cost}


def _model_row(model: str, runs: Sequence[dict[str, Any]], right: Bools) -> dict[str, Any]:
    names = [name for name in runs[0] if name not in ("model", "seed", "run")]
    table = pd.DataFrame(runs)
    best = min(runs, key=validation_rank)
    low, high = significance.accuracy_interval(right)
    spread = float(table["test_top1"].std()) if len(runs) > 1 else None
    means = {name: float(table[name].mean()) for name in names}
    means["parameters"] = runs[0]["parameters"]
    return {
        "model": model,
        "run": best["run"],
        "seeds": len(runs),
        **means,
        "test_top1_low": low,
        "test_top1_high": high,
        "test_top1_sd": spread,
    }
