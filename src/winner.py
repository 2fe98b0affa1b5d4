"""Stage winner: copy the leaderboard's best run to a fixed path, which a DVC artifact can point to.

Reads   params.yaml; reports/leaderboard.json; models/<name>
Writes  winner/<name>/model.safetensors and model.json, which `finegrain predict --model winner/<name>` takes
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
import shutil
from collections.abc import Sequence

from finegrain.config import params
from finegrain.core import disk, file_io, paths
from finegrain.core.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    process.parser(__doc__).parse_args(argv)
    dataset = params.load_params().dataset.name
    board = file_io.read_json(paths.LEADERBOARD)
    if board.get("dataset") != dataset:
        raise UserError(f"{paths.LEADERBOARD}: has models of another dataset than {dataset}; run `dvc repro`")
    run = paths.Run.from_name(dataset, board["models"][board["winner"]]["run"])
    folder = paths.winner_folder(dataset)
    if not run.weights.is_file():
        raise UserError(f"{run.weights}: not found; run `dvc repro` to create it or `dvc pull` to fetch it")
    disk.require_free_space(folder, run.weights.stat().st_size, "the winner")
    for source, target in zip((run.weights, run.sidecar), paths.exported_model(folder), strict=True):
        with file_io.replace_file(target) as temporary:
            shutil.copyfile(source, temporary)  # DVC's cache keeps identical files only once


if __name__ == "__main__":
    process.run_main(main)
