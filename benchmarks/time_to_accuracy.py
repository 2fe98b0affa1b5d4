"""Test accuracy that a time budget buys, from the same weights: ours, fastai, timm and PyTorch's tutorial.

    pip install -r benchmarks/requirements.txt
    python benchmarks/time_to_accuracy.py --archive part-1.zip part-2.zip --weights resnet18.safetensors

Every run is a process of its own and runs alone, one after another. Ours counts the stages download, split,
pack and train; the others find the photos ready as JPEG files in class folders of the same split, and count
all from the start of their process, validation included (benchmarks/contenders.py). Ours takes the row of
benchmarks/one_pass.py that is listed for the budget; the others train for as many epochs as fit. Writes
time_to_accuracy.md and .png to --out after each run, and reads finished runs from there. A thin line is the
test accuracy during a run, of its best epoch on validation so far.
"""

import argparse
import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from finegrain.core import allocator  # noqa: E402  (before anything imports torch)

allocator.keep_freed_memory()

import command_line  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
import one_pass  # noqa: E402
import shared  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402

from finegrain.evaluation import metrics  # noqa: E402
from finegrain.sources.archive import ArchiveReader  # noqa: E402

OURS = {
    60: "layer2 + layer3, 128 px",
    120: "layer2 + layer3, 224 px",
    300: "layer2 + layer3, 320 px, flip",
    600: "5 epochs at 128 px with covariances, then 320 px, flip",
    1200: "12 epochs at 192 px with covariances, then 320 px, flip",
}
"""Our row of benchmarks/one_pass.py for a budget in seconds, on two cores with bf16."""
REPRODUCED = {1200: "ResNet-34 project's recipe, 256 px"}
"""A row that is another project's protocol, which ``dvc repro`` runs as well."""
THEIRS = {
    "fastai": "fastai, fine_tune",
    "timm": "timm, train.py's defaults",
    "timm-tenth": "timm, a tenth of the default lr",
    "tutorial": "PyTorch's tutorial",
}


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "--archive", type=Path, nargs="+", required=True, help="class folders, or zips of them"
    )
    parser.add_argument("--weights", type=Path, required=True, help="torchvision's ResNet-18, .safetensors")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(OURS), help="seconds")
    parser.add_argument(
        "--image-sizes", type=int, nargs="+", default=[128, 224], help="of the others, in pixels"
    )
    parser.add_argument(
        "--contenders", nargs="+", default=list(THEIRS), choices=list(THEIRS), help="projects to compare with"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / ".time-to-accuracy", help="folder for runs and results"
    )
    parser.add_argument("--finished", action="store_true", help="run nothing more: show the finished runs")
    args = parser.parse_args()
    args.model, args.precision, args.seed = "resnet18", "auto", 0
    args.out.mkdir(parents=True, exist_ok=True)
    points: list[dict[str, Any]] = []
    for budget in args.budgets:
        for who, rows in {"finegrain": OURS, "reproduced": REPRODUCED}.items():
            row = rows.get(budget)
            if row and (not args.finished or one_pass.finished(row, args)):
                points.append(our_point(who, row, budget, args))
                write_results(points, args.out)
        for name, image_size in itertools.product(args.contenders, args.image_sizes):
            if not args.finished or result_file(name, image_size, budget, args).is_file():
                points.append(their_point(name, image_size, budget, args))
                write_results(points, args.out)
    print((args.out / "time_to_accuracy.md").read_text())


def our_point(who: str, row: str, budget: int, args: argparse.Namespace) -> dict[str, Any]:
    result = one_pass.run(row, args)
    test = result["test"]
    return {
        "who": who,
        "how": row,
        "budget": budget,
        "seconds": result["prepared_seconds"] + result["seconds"],
        "epochs": "",
        "curve": [],
        **test,
    }


def their_point(name: str, image_size: int, budget: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train a contender in a process of its own, unless its result is there."""
    file = result_file(name, image_size, budget, args)
    if not file.is_file():
        command = [sys.executable, str(ROOT / "benchmarks" / "contenders.py"), name]
        command += ["--image-size", str(image_size), "--budget", str(budget), "--out", str(file)]
        command += ["--photos", str(photo_folders(args)), "--weights", str(args.weights)]
        print(f"{name}, {image_size} px, {budget} s", file=sys.stderr, flush=True)
        subprocess.run(command, check=True)
    epochs = json.loads(file.read_text())["epochs"]
    correct, images = epochs[-1]["test_correct"], epochs[-1]["test_images"]
    low, high = metrics.wilson_interval(correct, images)
    return {
        "who": THEIRS[name],
        "how": f"{image_size} px",
        "budget": budget,
        "seconds": epochs[-1]["seconds"],
        "epochs": len(epochs),
        "curve": [(row["seconds"], row["test_correct"] / row["test_images"]) for row in epochs],
        "top1": correct / images,
        "top1_low": low,
        "top1_high": high,
    }


def result_file(name: str, image_size: int, budget: int, args: argparse.Namespace) -> Path:
    return Path(args.out / f"{name}-{image_size}-{budget}.json")


def photo_folders(args: argparse.Namespace) -> Path:
    """JPEG files of our split in train, val and test folders; its own stages make the split."""
    folder, prepared = args.out / "photos", one_pass.prepare(one_pass.parameters(OURS[60], args), args)
    if folder.is_dir():
        return Path(folder)
    data = prepared / "data" / shared.CARS
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    temporary = args.out / "photos.part"
    with ArchiveReader(data / "archive") as reader:
        for image, content in reader.read(lambda image: image.path in rows):
            row = rows[image.path]
            file = temporary / row["split"] / row["class"] / f"{row['sha256'][:16]}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    temporary.rename(folder)
    return Path(folder)


def write_results(points: list[dict[str, Any]], folder: Path) -> None:
    (folder / "time_to_accuracy.md").write_text(markdown(points))
    draw(points, folder / "time_to_accuracy.png")


def markdown(points: list[dict[str, Any]]) -> str:
    lines = [
        f"resnet18, {one_pass.machine()}",
        "",
        "| budget | who | how | epochs | seconds | test top-1 [95 %] |",
        "|---:|---|---|---:|---:|---:|",
    ]
    for point in points:
        accuracy = f"{point['top1']:.1%} [{point['top1_low']:.1%}, {point['top1_high']:.1%}]"
        lines.append(
            f"| {point['budget']} s | {point['who']} | {point['how']} | {point['epochs']} "
            f"| {point['seconds']:.0f} | {accuracy} |"
        )
    return "\n".join(lines) + "\n"


def draw(points: list[dict[str, Any]], file: Path) -> None:
    """Test top-1 with its 95 % interval over a run's minutes, a line for each project and image size."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=120, layout="constrained")
    lines: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        label = point["who"] if point["who"] == "finegrain" else f"{point['who']}, {point['how']}"
        lines.setdefault(label, []).append(point)
    for label, line in lines.items():
        minutes = [point["seconds"] / 60 for point in line]
        top1 = [100 * point["top1"] for point in line]
        below = [100 * (point["top1"] - point["top1_low"]) for point in line]
        above = [100 * (point["top1_high"] - point["top1"]) for point in line]
        ours = label == "finegrain"
        style = {"linewidth": 2.5, "zorder": 3} if ours else {"linewidth": 0}
        drawn = axes.errorbar(
            minutes, top1, yerr=[below, above], elinewidth=1.2, marker="o", capsize=2, label=label, **style
        )
        for point in line:
            seconds, accuracies = np.array(point["curve"]).reshape(-1, 2).T
            axes.plot(seconds / 60, 100 * accuracies, color=drawn[0].get_color(), linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.set(xlabel="minutes on the clock, everything counted", ylabel="test top-1, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left")
    figure.savefig(file)
    plt.close(figure)


if __name__ == "__main__":
    main()
