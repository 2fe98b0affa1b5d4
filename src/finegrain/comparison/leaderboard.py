"""Rank the models by validation, and compare each pair of them on the same test images."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from finegrain.comparison import chosen_metric, significance
from finegrain.comparison.chosen_metric import Outcomes
from finegrain.comparison.significance import Comparison
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.evaluation import predictions, summary


@dataclass(frozen=True)
class Leaderboard:
    """The models of a dataset, ranked by validation and compared on the test images."""

    dataset: str
    rows: list[dict[str, Any]]
    """One for each model, best first (``validation_rank``): means over its seeds, the ``run`` that is best on
    validation, the number of ``seeds``, 95 % interval and standard deviation between seeds (None for one) of
    test top-1 and of the chosen metric as ``test_top1_low``, ``_high`` and ``_sd``, and ``p_value`` and
    ``verdict`` against the winner, whose own are None and ``winner``."""
    pairs: list[dict[str, Any]]
    """One for each pair of models: ``model``, the lower ranked ``other``, ``difference`` of the chosen test
    metric with its 95 % interval ``low`` to ``high``, ``p_value``, and ``verdict`` on the first one."""
    runs: list[dict[str, Any]]
    """One for each run, in the order of ``rows`` and of the seeds."""
    choose_by: str = "top1"
    """The metric that chooses and is compared."""

    @property
    def winner(self) -> str:
        """Name of the model that is best on validation."""
        return self.rows[0]["model"]

    def summary(self) -> dict[str, Any]:
        """Content of leaderboard.json: dataset, winner, and each model's row without its name."""
        models = {
            row["model"]: {key: value for key, value in row.items() if key != "model"} for row in self.rows
        }
        return {
            "dataset": self.dataset, "choose_by": self.choose_by, "winner": self.winner, "models": models
        }  # fmt: skip

    def winner_metrics(self) -> dict[str, Any]:
        """Content of the winner's metrics file: its name, and the means over its seeds, rounded.

        The names are those of a run's metrics file, so that DVC shows them in the same columns.
        """
        best, column = self.rows[0], summary.column_name(self.choose_by)
        test = best["test_calibrated_loss" if self.choose_by == "loss" else f"test_{self.choose_by}"]
        return {
            "winner": self.winner,
            column: round(test, summary.METRICS_DECIMALS),
            f"val_{column}": round(best[f"val_{self.choose_by}"], summary.METRICS_DECIMALS),
        }


def rank_models(
    dataset: str, models: Sequence[str], seeds: Sequence[int], choose_by: str = "top1"
) -> Leaderboard:
    """Rank the models and compare each pair.

    p-values are those of ``chosen_metric.compare``, corrected by Holm for the number of pairs; a difference
    is significant where the corrected p-value is below 0.05.

    Args:
        choose_by: the parameter of the same name.

    Raises:
        UserError: results or predictions are missing, belong to different test images, or not to each other.
    """
    runs = {model: [paths.Run(dataset, model, seed) for seed in seeds] for model in models}
    run_rows = {model: [_run_row(run) for run in each] for model, each in runs.items()}
    outcomes = _outcomes(runs)
    rows = [_model_row(model, run_rows[model], outcomes[model], choose_by) for model in models]
    rows.sort(key=lambda row: validation_rank(row, choose_by))
    order = [row["model"] for row in rows]
    comparisons = _compare_pairs({model: outcomes[model] for model in order}, choose_by)
    rows[0] |= {"p_value": None, "verdict": "winner"}
    for row in rows[1:]:
        against = comparisons[order[0], row["model"]].reverse()
        row |= {"p_value": against.p_value, "verdict": against.verdict}
    return Leaderboard(
        dataset,
        rows,
        [_pair_row(model, other, each) for (model, other), each in comparisons.items()],
        [row for model in order for row in run_rows[model]],
        choose_by,
    )


def validation_rank(row: Mapping[str, Any], choose_by: str) -> tuple[float, float]:
    """Sort key of models or runs, best first: by their chosen metric on validation, then by ``val_loss``."""
    value = row[f"val_{choose_by}"]
    return value if choose_by == "loss" else -value, row["val_loss"]


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


def _outcomes(runs: Mapping[str, Sequence[paths.Run]]) -> dict[str, Outcomes]:
    """What the runs of each model predict for the test images."""
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
    return {model: Outcomes.from_tables([tables[run.name] for run in each]) for model, each in runs.items()}


def _compare_pairs(outcomes: Mapping[str, Outcomes], metric: str) -> dict[tuple[str, str], Comparison]:
    """The comparison of each pair of models, with p-values corrected for the number of pairs."""
    pairs = list(itertools.combinations(outcomes, 2))
    comparisons = [chosen_metric.compare(metric, outcomes[model], outcomes[other]) for model, other in pairs]
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
        **{f"val_{name}": value for name, value in results["val"].items()},
        "train_top1": results["train"]["top1"],
        **{f"test_{name}": value for name, value in results["test"].items()},
        **cost,
    }


def _model_row(
    model: str, runs: Sequence[dict[str, Any]], outcomes: Outcomes, choose_by: str
) -> dict[str, Any]:
    """Means over the runs of one model, without the verdict: a row of ``Leaderboard.rows``."""
    names = [name for name in runs[0] if name not in ("model", "seed", "run")]
    table = pd.DataFrame(runs)
    best = min(runs, key=lambda run: validation_rank(run, choose_by))
    intervals: dict[str, float | None] = {}
    for metric in dict.fromkeys(("top1", choose_by)):
        name, (low, high) = f"test_{metric}", chosen_metric.interval(metric, outcomes)
        intervals |= {f"{name}_low": low, f"{name}_high": high}
        intervals[f"{name}_sd"] = float(table[name].std()) if len(runs) > 1 else None
    means = {name: float(table[name].mean()) for name in names}
    means["parameters"] = runs[0]["parameters"]
    return {
        "model": model,
        "run": best["run"],
        "seeds": len(runs),
        **means,
        **intervals,
    }
