"""Stage winner: the leaderboard's best training under a fixed name, which a DVC artifact can point to.

Reads   params.yaml; reports/leaderboard.json; models/<name>
Writes  winner/<name>/model.safetensors and model.json, which `finegrain predict --model winner/<name>` takes
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
import argparse
import shutil
from collections.abc import Sequence

from finegrain.config import params
from finegrain.core import disk, file_io, paths
from finegrain.core.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    name = params.load_params().dataset.name
    board = file_io.read_json(paths.LEADERBOARD)
    run = paths.Run.from_name(name, board["models"][board["winner"]]["run"])
    folder = paths.winner_folder(name)
    if not run.weights.is_file():
        raise UserError(f"{run.weights}: not found; `dvc repro` makes it, `dvc pull` fetches it")
    disk.require_free_space(folder, run.weights.stat().st_size, "the winner")
    for file, own in zip(paths.exported_model(folder), (run.weights, run.sidecar), strict=True):
        with file_io.replace_file(file) as temporary:
            shutil.copyfile(own, temporary)  # DVC keeps one copy of a content, whatever its names


if __name__ == "__main__":
    process.run_main(main)
