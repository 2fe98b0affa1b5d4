"""Compare recipes on real photos, from random weights, for equal numbers of training images, over seeds.

Every recipe is read from recipes/ and scaled down by the same rules to fit a small machine: no pretrained
weights, one model, image sizes divided by the same number, epochs scaled to the same total, no refit.
Everything else (optimizer, learning rates, schedule, batch size, augmentation, head) is the recipe's own. The
runs use the project's real stages, one after another.

    python benchmarks/compare_recipes.py --archive part-1.zip part-2.zip part-3.zip part-4.zip

Prints a Markdown table and writes it to the folder --out. Finished runs are kept there and not repeated.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import command_line  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import shared  # noqa: E402
import yaml  # noqa: E402


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--archive", type=Path, nargs="+", required=True, help="zip files of class folders")
    parser.add_argument(
        "--out", type=Path, default=ROOT / ".compare-recipes", help="folder for runs and results"
    )
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=["stanford-cars", "stanford-cars-sgd", "stanford-cars-one-cycle"],
        help="of recipes/, the first being what the others are compared with",
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="RECIPE:KEY=VALUE", help="changes, such as an ablation"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of training")
    parser.add_argument("--epochs", type=int, default=10, help="epochs in all")
    parser.add_argument("--model", default="resnet18", help="network, by torchvision's name")
    parser.add_argument("--divide", type=float, default=3.5, help="divisor of image sizes: 224 px becomes 64")
    args = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    for seed, recipe in itertools.product(args.seeds, args.recipes):
        results.setdefault(recipe, []).append(run(recipe, seed, args))
    table = report(results, args.recipes[0])
    print(table)
    (args.out / "table.md").write_text(table)


def shrunk(recipe: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """The recipe's parameters, scaled down for a small machine."""
    data = shared.recipe(recipe.split("@")[0], args.archive, args.model, seed)
    data["checkpoint_seconds"] = 600
    shared.lengthen(data, args.epochs)
    for phase in data["phases"].values():
        phase["lr_range_test"] = False
        one = isinstance(phase["image_size"], int)
        small = [
            max(32, round(image_size / args.divide))
            for image_size in ([phase["image_size"]] if one else phase["image_size"])
        ]
        phase["image_size"] = small[0] if one else small
    data["split"]["val_ratio"] = 0.15  # so that all recipes train on the same number of images
    data["pack"]["image_size"] = 128
    data["evaluate"]["image_size"] = None
    for change in args.set:
        name, _, assignment = change.partition(":")
        key, _, value = assignment.partition("=")
        if name == recipe:
            section = data
            *parents, last = key.split(".")
            for parent in parents:
                section = section[parent]
            section[last] = yaml.safe_load(value)
    return data


def run(recipe: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Metrics and correct predictions of one run; a finished run is read from its folder."""
    folder = args.out / f"seed-{seed}" / recipe
    folder.mkdir(parents=True, exist_ok=True)
    data = shrunk(recipe, seed, args)
    file, results = folder / "params.yaml", folder / "reports/cars/results" / f"{args.model}-{seed}.json"
    text = yaml.safe_dump(data, sort_keys=False)
    if not (results.is_file() and file.read_text() == text):
        results.unlink(missing_ok=True)  # from other settings: an interrupted run must not return them
        file.write_text(text)
        for stage in ("download", "split", "pack", "train", "evaluate"):
            print(f"{recipe}, seed {seed}: {stage}", file=sys.stderr, flush=True)
            command = shared.command(stage, args.model, seed)
            subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PYTHONPATH": ""})
    predictions = pd.read_parquet(folder / "data" / "cars" / "predictions" / f"{args.model}-{seed}.parquet")
    result = json.loads(results.read_text())
    return {
        **result,
        "right": (predictions["class"] == predictions["class_1"]).to_numpy(),
    }


def report(results: dict[str, list[dict[str, Any]]], ours: str) -> str:
    """Table, one row per recipe: mean test top-1 over the seeds, its interval, and the paired difference."""
    lines = [
        "| recipe | test top-1, each seed | mean [95 %] | top-5 | ours - this [95 %] |",
        "|---|---|---:|---:|---:|",
    ]
    right = {name: np.array([run["right"] for run in runs], float) for name, runs in results.items()}
    for name, (each, mean, difference) in shared.accuracy_cells(right, ours).items():
        top5 = np.mean([run["test"]["top5"] for run in results[name]])
        lines.append(f"| {name} | {each} | {mean} | {top5:.1%} | {difference} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
