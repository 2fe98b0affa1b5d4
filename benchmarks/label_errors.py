"""Share of wrong labels that leave-one-out finds.

    python benchmarks/label_errors.py --archive part-1.zip part-2.zip --weights resnet18.safetensors

Gives a random 5 % of the training photos another class, drawn with a seed, and trains recipes/one-pass.yaml
on them with the project's own stages. The photos are then sorted as reports/<name>/doubtful_labels lists
them, by the probability of their label. Prints, as Markdown, which share of the wrong labels is among the
first 5 % and 10 % of the list. The photos pass through the network once, whatever the number of seeds.
"""

import argparse
import os
import subprocess
from pathlib import Path

import command_line
import numpy as np
import one_pass
import one_pass_rows
import pandas as pd
import shared

from finegrain.core import paths
from finegrain.evaluation import doubtful_labels

RUN = paths.Run(shared.CARS, "resnet18", 0)


def main() -> None:
    parser = command_line.parser(__doc__)
    one_pass.add_inputs(parser)
    parser.add_argument(
        "--row",
        default="layer2 + layer3, 224 px, flip",
        choices=list(one_pass_rows.ROWS),
        metavar="ROW",
        help="row of one_pass.py to train with",
    )
    parser.add_argument("--wrong", type=float, default=0.05, help="share of the training photos")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of training")
    parser.add_argument("--out", type=Path, default=shared.ROOT / ".label-errors", help="folder for the runs")
    args = parser.parse_args()
    args.model, args.precision, args.seed = RUN.model, "auto", RUN.seed
    print("| seed | training photos | wrong labels | in the first 5 % | in the first 10 % |")
    print("|---:|---:|---:|---:|---:|")
    for seed in args.seeds:
        wrong, probability = train_with_wrong_labels(seed, args)
        order = np.argsort(probability, kind="stable")
        shares = [wrong[order[: round(part * len(wrong))]].sum() / wrong.sum() for part in (0.05, 0.1)]
        print(f"| {seed} | {len(wrong):,} | {wrong.sum()} | {shares[0]:.1%} | {shares[1]:.1%} |", flush=True)


def train_with_wrong_labels(seed: int, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Whether the label of each training photo is wrong, ``[N]`` bool, and the label's leave-one-out
    probability, ``[N]``."""
    prepared = one_pass.prepare(one_pass.parameters(args.row, args), args)
    folder = args.out / "wrong-labels"
    data = folder / "data" / shared.CARS
    data.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text((prepared / "params.yaml").read_text())
    for name in ("archive", "source.json"):
        if not (data / name).exists():
            (data / name).symlink_to((prepared / "data" / shared.CARS / name).resolve())
    manifest = pd.read_csv(prepared / "data" / shared.CARS / "manifest.csv", dtype=str, keep_default_na=False)
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(manifest["split"] == "train")
    chosen = rng.choice(rows, round(args.wrong * len(rows)), replace=False)
    classes = sorted(set(manifest["class"]))
    for row in chosen:
        others = [name for name in classes if name != manifest.at[row, "class"]]
        manifest.at[row, "class"] = others[rng.integers(len(others))]
    manifest.to_csv(data / "manifest.csv", index=False)
    for stage in ("pack", "train"):
        command = shared.command(stage, RUN.model, RUN.seed)
        subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PYTHONPATH": ""})
    predictions = doubtful_labels.read_leave_one_out(folder / RUN.leave_one_out)
    assert predictions is not None, "the row solves no head"
    return np.isin(rows, chosen), predictions.label_probability


if __name__ == "__main__":
    main()
