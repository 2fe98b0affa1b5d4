"""Stage compare: leaderboard, verdicts and the offline report over all models.

Reads   params.yaml; metrics/<name>, plots/<name>, reports/<name>, models/<name>,
        data/<name>/gallery and predictions
Writes  reports/index.html, leaderboard.json, leaderboard.md, curves.png, accuracy_vs_time.png

Of a model with several seeds, figures show the training that is best on validation.
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from finegrain.comparison import leaderboard, plots, report
from finegrain.config import params
from finegrain.core import disk, file_io, paths
from finegrain.evaluation import car_groups, class_plots, metrics, plot_style, predictions

PAIRS = 12


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    config = params.load_params()
    disk.require_free_space(paths.REPORTS, 50_000_000, "the report")
    name, data = config.dataset.name, paths.Dataset(config.dataset.name)
    board = leaderboard.rank_models(name, config.models, config.seeds)
    rows = board.rows
    shown = {row["model"]: paths.Run.from_name(name, row["run"]) for row in rows}
    histories = {model: pd.read_csv(run.history) for model, run in shown.items()}
    curves, cost = (
        plot_style.render_png(plots.training_curves(histories)),
        plot_style.render_png(plots.accuracy_vs_time_plot(rows)),
    )
    winner = rows[0]["model"]
    sidecar = file_io.read_json(shown[winner].sidecar)

    file_io.write_bytes(paths.REPORTS / "curves.png", curves)
    file_io.write_bytes(paths.REPORTS / "accuracy_vs_time.png", cost)
    file_io.write_text(paths.REPORTS / "leaderboard.md", report.leaderboard_markdown(rows))
    facts = {"winner": winner, "models": {row["model"]: _plain(row) for row in rows}}
    file_io.write_json(paths.LEADERBOARD, facts)
    page = report.Report(
        dataset=name,
        rows=rows,
        pairs=board.pairs,
        runs=board.runs,
        curves=curves,
        accuracy_vs_time=cost,
        models=[_figures(run) for run in shown.values()],
        class_balance=plot_style.render_png(class_plots.class_balance_plot(_table(data.class_balance))),
        split=file_io.read_json(data.split_metrics),
        source=file_io.read_json(data.source),
        rejected=_table(data.rejected).to_records(index=False).tolist(),
        near_duplicates=_table(data.near_duplicates).to_records(index=False).tolist(),
        parameters=paths.PARAMS.read_text(),
        environment={"revision": sidecar["revision"], **sidecar["environment"]},
    )
    file_io.write_text(paths.REPORTS / "index.html", report.render(page))


def _plain(row: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in row.items() if key != "model"}


def _lr_range(run: paths.Run) -> Iterator[tuple[str, bytes]]:
    """Phase and chart of each LR range test."""
    sidecar = file_io.read_json(run.sidecar)
    for phase, suggestions in sidecar["lr_suggestions"].items():
        points = pd.read_csv(run.lr_range / f"{phase}.csv")
        yield (
            phase,
            plot_style.render_png(plots.lr_range_plot(phase, points, suggestions, sidecar["lr"][phase])),
        )


def _table(file: Path) -> pd.DataFrame:
    """Text stays text: a class may be called NA, or 007."""
    return pd.read_csv(file, keep_default_na=False, dtype={"class": str})


def _figures(run: paths.Run) -> report.ModelFigures:
    kept, per_class = predictions.read_predictions(run.predictions), _table(run.per_class)
    names = per_class["class"].tolist()
    place = {name: index for index, name in enumerate(names)}
    truth = np.array([place[name] for name in kept["class"]])
    predicted = np.array([place[name] for name in kept["class_1"]])
    return report.ModelFigures(
        model=run.model,
        confusion=run.confusion.read_bytes(),
        reliability=run.reliability.read_bytes(),
        per_class=plot_style.render_png(class_plots.per_class_recall_plot(per_class)),
        photos=file_io.read_json(run.gallery),
        groups=[
            (
                kind,
                car_groups.group_summary(group, truth, predicted),
                car_groups.group_table(group, truth, predicted),
            )
            for kind, group in car_groups.from_class_names(names).items()
        ],
        confused_pairs=metrics.confused_pairs(truth, predicted, names, PAIRS),
        lr_range=list(_lr_range(run)),
    )


if __name__ == "__main__":
    process.run_main(main)
