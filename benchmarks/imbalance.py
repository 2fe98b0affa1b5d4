"""What class weights and a choice by macro-F1 bring where most classes are small.

    python benchmarks/imbalance.py

Draws the embedded sample, and leaves a tenth of the train and validation images of two thirds of its classes;
the test split stays whole, so that small classes are measured as well as large ones. The network then learns
by the recipe of params.yaml from all images with equal weights, and three epochs more at a lower rate: with
`class_weights: none` and `choose_by: top1`, or with each of --weights and `choose_by: macro_f1`. --throughout
adds rows with weights from the first step on. All this with several seeds, by the project's real stages in a
temporary folder. Prints, as Markdown, the test results, and the difference of macro-F1 on the same test
images with its 95 % interval and verdict.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pandas as pd
import shared
import yaml

from finegrain.comparison import chosen_metric
from finegrain.comparison.chosen_metric import Outcomes
from finegrain.comparison.formatting import p_value, percent, points
from finegrain.core import paths
from finegrain.evaluation import predictions

NAME = "sample"
KEPT = 10
"""One of so many train and validation images of a small class is left."""


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--model", default="resnet18", help="network, by torchvision's name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of training")
    parser.add_argument("--images-per-class", type=int, default=120, help="drawings of each class")
    parser.add_argument("--image-size", type=int, default=48, help="in pixels")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=["balanced"],
        choices=["balanced", "effective"],
        help="kinds of class weights to compare",
    )
    parser.add_argument(
        "--throughout", action="store_true", help="add rows with class weights from the first step on"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = prepare(Path(folder), args)
        tables = {"none, top1": train(Path(folder), ("none", "none"), "top1", args)}
        for kind in args.weights:
            tables[f"{kind}, macro_f1"] = train(Path(folder), ("none", kind), "macro_f1", args)
            if args.throughout:
                tables[f"{kind} throughout, macro_f1"] = train(Path(folder), (kind, kind), "macro_f1", args)
    print(report(tables, small), end="")


def prepare(folder: Path, args: argparse.Namespace) -> list[str]:
    """Draw, split and pack the images, without those that are cut; returns the small classes."""
    data: dict[str, Any] = yaml.safe_load((shared.ROOT / "params.yaml").read_text())
    data["dataset"] |= {"name": NAME, "images_per_class": args.images_per_class}
    data |= {"models": [args.model], "seeds": args.seeds}
    first = data["phases"]["all"] | {"image_size": args.image_size}
    last = first | {"epochs": 3, "lr": 0.0005, "schedule": {"kind": "cosine"}}
    data["phases"] = {"all": first, "last": last}
    (folder / "params.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    for stage in ("inputs", "download", "split"):
        run_stage(folder, stage, args.model, 0)
    file = folder / paths.Dataset(NAME).manifest
    manifest = pd.read_csv(file, dtype=str, keep_default_na=False)
    classes = sorted(set(manifest["class"]))
    small = [name for place, name in enumerate(classes) if place % 3]
    place = manifest.groupby(["class", "split"]).cumcount()
    is_cut = manifest["class"].isin(small) & manifest["split"].isin(["train", "val"]) & (place % KEPT > 0)
    manifest[~is_cut].to_csv(file, index=False)
    run_stage(folder, "pack", args.model, 0)
    return small


def train(
    folder: Path, weights: tuple[str, str], choose_by: str, args: argparse.Namespace
) -> list[pd.DataFrame]:
    """Train and evaluate with each seed; returns the table of test predictions of each.

    Args:
        weights: ``class_weights`` of the first phase and of the last.
    """
    own = folder / "-".join(weights)
    (own / "data").mkdir(parents=True)
    (own / "data" / NAME).symlink_to(folder / "data" / NAME)
    data = yaml.safe_load((folder / "params.yaml").read_text())
    data["phases"]["all"]["class_weights"] = weights[0]
    data |= {"class_weights": weights[1], "choose_by": choose_by}
    (own / "params.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    tables = []
    for seed in args.seeds:
        for stage in ("train", "evaluate"):
            run_stage(own, stage, args.model, seed)
        tables.append(predictions.read_predictions(own / paths.Run(NAME, args.model, seed).predictions))
    return tables


def run_stage(folder: Path, stage: str, model: str, seed: int) -> None:
    print(f"{folder.name}, seed {seed}: {stage}", file=sys.stderr, flush=True)
    command = shared.command(stage, model, seed)
    subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PYTHONPATH": ""})


def report(tables: dict[str, list[pd.DataFrame]], small: list[str]) -> str:
    """A row for each kind of weights, compared with the first."""
    lines = [
        "| class_weights, choose_by | macro-F1, each seed | recall in small classes | in large | top-1 "
        "| macro-F1 - first row [95 %] | p | verdict |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    outcomes = {kind: Outcomes.from_tables(each) for kind, each in tables.items()}
    first = next(iter(outcomes.values()))
    is_small = next(iter(tables.values()))[0]["class"].isin(small).to_numpy()
    for kind, found in outcomes.items():
        cells = ["-", "-", "-"]
        if found is not first:
            gain = chosen_metric.compare("macro_f1", found, first)
            shown = f"{points(gain.difference)} [{points(gain.low)}, {points(gain.high)}]"
            cells = [shown, p_value(gain.p_value).removeprefix("= "), gain.verdict]
        recall = [percent(found.correct[:, part].mean(), 1) for part in (is_small, ~is_small)]
        each = ", ".join(percent(value, 1) for value in found.values("macro_f1"))
        top1 = percent(float(np.mean(found.values("top1"))), 1)
        lines.append(f"| {kind} | {each} | {' | '.join([*recall, top1, *cells])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
