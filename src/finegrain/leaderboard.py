"""Rank the models: the winner by validation, each other one by a paired test against it."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from finegrain import paths, predictions, record, scores
from finegrain.errors import UserError

SIGNIFICANCE = 0.05


def rank(dataset: str, models: Sequence[str]) -> list[dict[str, Any]]:
    """One row a model, best validation top-1 first (validation loss breaks ties).

    ``p_value`` is McNemar's against the winner on the same test images, corrected by Holm for the number
    of models (None for the winner); ``verdict`` calls a difference real where it is below 0.05.

    Raises:
        UserError: metrics or predictions are missing, or are of different test images.
    """
    rows = [_row(paths.Run(dataset, model)) for model in models]
    rows.sort(key=lambda row: (-row["val_top1"], row["val_loss"]))
    kept = [predictions.read(paths.Run(dataset, row["model"]).predictions) for row in rows]
    for row, frame in zip(rows, kept, strict=True):
        if not frame["path"].equals(kept[0]["path"]):
            raise UserError(
                f"{row['model']} was scored on other test images than {rows[0]['model']}; run `dvc repro`"
            )
    raw = [_p_value(kept[0], frame) for frame in kept[1:]]
    rows[0] |= {"p_value": None, "verdict": "winner"}
    for row, p in zip(rows[1:], scores.holm(raw), strict=True):
        row |= {"p_value": p, "verdict": _verdict(row["test_top1"] - rows[0]["test_top1"], p)}
    return rows


def _row(run: paths.Run) -> dict[str, Any]:
    quality, cost = record.read_json(run.metrics), record.read_json(run.cost)
    test = {f"test_{name}": value for name, value in quality["test"].items()}
    return {
        "model": run.model,
        "val_top1": quality["val"]["top1"],
        "val_loss": quality["val"]["loss"],
        "train_top1": quality["train"]["top1"],
        **test,
        **cost,
    }


def _p_value(winner: pd.DataFrame, other: pd.DataFrame) -> float:
    return scores.mcnemar(winner["correct"].to_numpy(), other["correct"].to_numpy())


def _verdict(difference: float, p: float) -> str:
    if p >= SIGNIFICANCE:
        return "within noise"
    return "really better" if difference > 0 else "really worse"
