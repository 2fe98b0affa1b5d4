"""Rank the models: the winner by validation; every two of them by a paired test on the test images."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from finegrain import paths, predictions, record, scores
from finegrain.errors import UserError

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Board:
    rows: list[dict[str, Any]]
    """One a model, best validation top-1 first (validation loss breaks ties), with ``p_value`` and
    ``verdict`` against the winner; the winner's are None and ``winner``."""
    pairs: list[dict[str, Any]]
    """One for every two models: ``model``, ``other``, which ranks lower, ``difference`` of their test top-1
    with its 95 % interval ``low`` to ``high``, ``p_value`` and ``verdict`` on the first one."""


def rank(dataset: str, models: Sequence[str]) -> Board:
    """Compare the models on the same test images.

    p-values are McNemar's, corrected by Holm for the number of pairs; a difference is called real where
    the corrected one is below 0.05.

    Raises:
        UserError: metrics or predictions are missing, or are of different test images.
    """
    rows = [_row(paths.Run(dataset, model)) for model in models]
    rows.sort(key=lambda row: (-row["val_top1"], row["val_loss"]))
    kept = {row["model"]: predictions.read(paths.Run(dataset, row["model"]).predictions) for row in rows}
    winner = rows[0]["model"]
    for model, frame in kept.items():
        if not frame["path"].equals(kept[winner]["path"]):
            raise UserError(f"{model} was scored on other test images than {winner}; run `dvc repro`")
    pairs = _pairs(kept)
    rows[0] |= {"p_value": None, "verdict": "winner"}
    against = {pair["other"]: pair for pair in pairs if pair["model"] == winner}
    for row in rows[1:]:
        p = against[row["model"]]["p_value"]
        row |= {"p_value": p, "verdict": _verdict(-against[row["model"]]["difference"], p)}
    return Board(rows, pairs)


def _pairs(kept: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    correct = {model: frame["correct"].to_numpy() for model, frame in kept.items()}
    pairs: list[dict[str, Any]] = []
    for model, other in itertools.combinations(kept, 2):
        difference, low, high = scores.paired_difference(correct[model], correct[other])
        raw = scores.mcnemar(correct[model], correct[other])
        pairs.append(
            {"model": model, "other": other, "difference": difference, "low": low, "high": high, "p": raw}
        )
    for pair, p in zip(pairs, scores.holm([pair.pop("p") for pair in pairs]), strict=True):
        pair |= {"p_value": p, "verdict": _verdict(pair["difference"], p)}
    return pairs


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


def _verdict(difference: float, p: float) -> str:
    if p >= SIGNIFICANCE:
        return "within noise"
    return "really better" if difference > 0 else "really worse"
