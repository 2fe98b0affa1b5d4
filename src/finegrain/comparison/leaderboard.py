"""Rank the models by validation, and compare each pair of them on the same test images."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from finegrain.comparison import significance
from finegrain.comparison.significance import Bools, Comparison
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.evaluation import predictions, summary


@dataclass(frozen=True)
class Leaderboard:
    dataset: str
    rows: list[dict[str, Any]]
    """One for each model, best validation top-1 first (validation loss breaks ties): means over its seeds,
    the ``run`` that is best on validation, the number of ``seeds``, their standard deviation
    ``test_top1_sd`` (None for one seed), and ``p_value`` and ``verdict`` against the winner, whose own are
    None and ``winner``."""
    pairs: list[dict[str, Any]]
    """One for each pair of models: ``model``, the lower ranked ``other``, ``difference`` of their test top-1
    with its 95 % interval ``low`` to ``high``, ``p_value``, and ``verdict`` on the first one."""
    runs: list[dict[str, Any]]
    """One for each run, in the order of ``rows`` and of the seeds."""

    @property
    def winner(self) -> str:
        """Name of the model that is best on validation."""
        return self.rows[0]["model"]

    def summary(self) -> dict[str, Any]:
        """Content of leaderboard.json: dataset, winner, and each model's row without its name."""
        models = {
            row["model"]: {key: value for key, value in row.items() if key != "model"} for row in self.rows
        }
        return {"dataset": self.dataset, "winner": self.winner, "models": models}

    def winner_metrics(self) -> dict[str, Any]:
        """Content of the winner's metrics file: its name, and the means over its seeds, rounded.

        The names are those of a run's metrics file, so that DVC shows them in the same columns.
        """
        top1, val_top1 = (self.rows[0][name] for name in ("test_top1", "val_top1"))
        return {
            "winner": self.winner,
            "top1": round(top1, summary.METRICS_DECIMALS),
            "val_top1": round(val_top1, summary.METRICS_DECIMALS),
        }


def rank_models(dataset: str, models: Sequence[str], seeds: Sequence[int]) -> Leaderboard:
    """Rank the models and compare each pair.

    p-values are those of ``significance.compare``, corrected by Holm for the number of pairs; a difference is
    significant where the corrected p-value is below 0.05.

    Raises:
        UserError: results or predictions are missing, belong to different test images, or not to each other.
    """
    runs = {model: [paths.Run(dataset, model, seed) for seed in seeds] for model in models}
    run_rows = {model: [_run_row(run) for run in each] for model, each in runs.items()}
    correct = _correct(runs)
    rows = [_model_row(model, run_rows[model], correct[model]) for model in models]
    rows.sort(key=validation_rank)
    order = [row["model"] for row in rows]
    comparisons = _compare_pairs({model: correct[model] for model in order})
    rows[0] |= {"p_value": None, "verdict": "winner"}
    for row in rows[1:]:
        against = comparisons[order[0], row["model"]].reverse()
        row |= {"p_value": against.p_value, "verdict": against.verdict}
    return Leaderboard(
        dataset,
        rows,
        [_pair_row(model, other, each) for (model, other), each in comparisons.items()],
        [row for model in order for row in run_rows[model]],
    )


def validation_rank(row: Mapping[str, Any]) -> tuple[float, float]:
    """Sort key of models or runs, best first: by ``val_top1``, then by ``val_loss``."""
    return -row["val_top1"], row["val_loss"]


def require_same_images(tables: Mapping[str, pd.DataFrame]) -> None:
    """Check that all runs were evaluated on the same test images in the same order.

    Args:
        tables: predictions of each run, by its name.

    Raises:
        UserError: two runs were evaluated on different images.
    """
    first, first_table = next(iter(tables.items()))
    columns = [name for name in ("path", "sha256") if name in first_table]
    for name, table in tables.items():
        if not table.reindex(columns=columns).equals(first_table[columns]):
            raise UserError(f"{name} was scored on other test images than {first}; run `dvc repro`")


def _correct(runs: Mapping[str, Sequence[paths.Run]]) -> dict[str, Bools]:
    """Which test images each run of each model predicts correctly, ``[seeds, N]`` for each model."""
    tables = {
        run.name: predictions.read_predictions(run.predictions) for each in runs.values() for run in each
    }
    require_same_images(tables)
    for run in itertools.chain(*runs.values()):
        top1 = file_io.read_json(run.results)["test"]["top1"]
        if not math.isclose(tables[run.name]["correct"].mean(), top1, abs_tol=1e-9):
            raise UserError(
                f"{run.results}: not the results of {run.predictions}, which is newer or older; "
                f"`dvc checkout` restores what dvc.lock records, "
                f"`dvc repro -f evaluate@{run.name}` makes both again"
            )
    return {
        model: np.stack([tables[run.name]["correct"].to_numpy() for run in each])
        for model, each in runs.items()
    }


def _compare_pairs(correct: Mapping[str, Bools]) -> dict[tuple[str, str], Comparison]:
    """The comparison of each pair of models, with p-values corrected for the number of pairs."""
    pairs = list(itertools.combinations(correct, 2))
    comparisons = [significance.compare(correct[model], correct[other]) for model, other in pairs]
    return dict(zip(pairs, significance.holm_corrected(comparisons), strict=True))


def _pair_row(model: str, other: str, comparison: Comparison) -> dict[str, Any]:
    """A row of ``Leaderboard.pairs``."""
    return {"model": model, "other": other, **asdict(comparison), "verdict": comparison.verdict}


def _run_row(run: paths.Run) -> dict[str, Any]:
    """Results and cost of one run: a row of ``Leaderboard.runs``."""
    results, cost = file_io.read_json(run.results), file_io.read_json(run.cost)
    return {
        "model": run.model,
        "seed": run.seed,
        "run": run.name,
        "val_top1": results["val"]["top1"],
        "val_loss": results["val"]["loss"],
        "train_top1": results["train"]["top1"],
        **{f"test_{name}": value for name, value in results["test"].items()},
        **cost,
    }


def _model_row(model: str, runs: Sequence[dict[str, Any]], correct: Bools) -> dict[str, Any]:
    """Means over the runs of one model, without the verdict: a row of ``Leaderboard.rows``."""
    names = [name for name in runs[0] if name not in ("model", "seed", "run")]
    table = pd.DataFrame(runs)
    best = min(runs, key=validation_rank)
    low, high = significance.accuracy_interval(correct)
    seed_sd = float(table["test_top1"].std()) if len(runs) > 1 else None
    means = {name: float(table[name].mean()) for name in names}
    means["parameters"] = runs[0]["parameters"]
    return {
        "model": model,
        "run": best["run"],
        "seeds": len(runs),
        **means,
        "test_top1_low": low,
        "test_top1_high": high,
        "test_top1_sd": seed_sd,
    }
