"""Stage compare: leaderboard, verdicts and the offline report over all models.

Reads   params.yaml; plots/<name>, reports/<name>, models/<name>, data/<name>/gallery and predictions
Writes  reports/index.html, leaderboard.json, leaderboard.md, curves.png, accuracy_vs_time.png,
        metrics/<name>/winner.json

Plots and images are those of each model's best run on validation, if it has several seeds.
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
from collections.abc import Sequence

from finegrain.comparison import formatting, leaderboard, plots, report, report_data
from finegrain.config import params
from finegrain.core import disk, file_io, log, paths
from finegrain.evaluation import plot_style


def main(argv: Sequence[str] | None = None) -> None:
    process.parser(__doc__).parse_args(argv)
    config = params.load_params()
    dataset = config.dataset.name
    disk.require_free_space(paths.REPORTS, 50_000_000, "the report")
    board = leaderboard.rank_models(dataset, config.models, config.seeds, config.choose_by)
    best_runs = {row["model"]: paths.Run.from_name(dataset, row["run"]) for row in board.rows}
    histories = {model: report_data.read_table(run.history) for model, run in best_runs.items()}
    curves = plot_style.render_png(plots.training_curves(histories, board.choose_by))
    accuracy_vs_time = plot_style.render_png(plots.accuracy_vs_time_plot(board.rows, board.choose_by))
    shown_curves = curves if max(map(len, histories.values())) > 1 else None
    shown_times = accuracy_vs_time if len(board.rows) > 1 else None
    data = report_data.read_report_data(dataset, board, best_runs, shown_curves, shown_times)

    file_io.write_bytes(paths.REPORTS / "curves.png", curves)
    file_io.write_bytes(paths.REPORTS / "accuracy_vs_time.png", accuracy_vs_time)
    table = report.leaderboard_markdown(board.rows, board.choose_by)
    file_io.write_text(paths.REPORTS / "leaderboard.md", table)
    file_io.write_json(paths.LEADERBOARD, board.summary())
    file_io.write_json(paths.winner_metrics(dataset), board.winner_metrics())
    file_io.write_text(paths.REPORTS / "index.html", report.render(data))
    winner, metric = board.rows[0], board.choose_by
    score = formatting.metric_value(metric, winner[f"test_{metric}"])
    name = f"test {formatting.METRIC_NAMES[metric]}"
    log.info(f"winner: {winner['model']}, {name} {score}; all results: {paths.REPORTS}/index.html")


if __name__ == "__main__":
    process.run_main(main)
