"""Test accuracy that a time budget buys, from the same weights: ours, fastai, timm and PyTorch's tutorial.

    pip install -r benchmarks/requirements.txt
    python benchmarks/time_to_accuracy.py --archive part-1.zip part-2.zip --weights resnet18.safetensors
    python benchmarks/time_to_accuracy.py --runs docs/time_to_accuracy.json --contenders

Every run is a process of its own and runs alone, one after another. Ours counts the stages download, split,
pack and train; the others find the photos ready as JPEG files in class folders of the same split, and count
all from the start of their process, validation included (benchmarks/contenders.py). Ours takes the row of
benchmarks/one_pass.py that is listed for the budget; the others train for as many epochs as fit. After each
run its result is added to the file --runs, and the table and the figure of all results are written to --out;
what the file has is not run again, so without contenders the results are only shown. A thin line is the
test accuracy during a run, of its best epoch on validation so far.
"""

import argparse
import csv
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
import one_pass_rows  # noqa: E402
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
CONTENDERS = {
    "finegrain": "finegrain",
    "reproduced": "finegrain, another's recipe",
    "fastai": "fastai, fine_tune",
    "timm": "timm, train.py's defaults",
    "timm-tenth": "timm, a tenth of the default learning rate",
    "tutorial": "PyTorch's tutorial",
}
Result = dict[str, Any]
"""A run: ``contender``, ``how``, ``budget`` in seconds, ``seed``, ``machine``, ``epochs`` or None, its
``seconds``, how many of ``images`` test photos are ``correct``, and the ``curve`` of (seconds, top-1)."""


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--archive", type=Path, nargs="+", default=[], help="class folders, or zips of them")
    parser.add_argument("--weights", type=Path, help="torchvision's ResNet-18, .safetensors")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(OURS), help="seconds")
    parser.add_argument(
        "--image-sizes", type=int, nargs="+", default=[128, 224], help="of the others, in pixels"
    )
    parser.add_argument(
        "--contenders", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS), help="what to run"
    )
    parser.add_argument("--seed", type=int, default=0, help="of training")
    parser.add_argument(
        "--out", type=Path, default=ROOT / ".time-to-accuracy", help="folder for runs, table and figure"
    )
    parser.add_argument("--runs", type=Path, help="JSON file of the results (default: runs.json in --out)")
    args = parser.parse_args()
    if args.contenders and not (args.archive and args.weights):
        parser.error("--archive and --weights are needed to run the contenders")
    args.model, args.precision = "resnet18", "auto"
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.runs or args.out / "runs.json"
    results: list[Result] = json.loads(file.read_text()) if file.is_file() else []
    for key in planned(args):
        if not any(key.items() <= result.items() for result in results):
            results.append(key | measure(key, args))
            file.write_text(dump(results))
            show(results, args.out)
    show(results, args.out)
    print((args.out / "time_to_accuracy.md").read_text())


def planned(args: argparse.Namespace) -> Iterator[Result]:
    """Contender, how, budget and seed of each run."""
    for budget, contender in itertools.product(args.budgets, args.contenders):
        ours = {"finegrain": OURS, "reproduced": REPRODUCED}.get(contender)
        ways = [f"{size} px" for size in args.image_sizes] if ours is None else [ours.get(budget)]
        for how in filter(None, ways):
            yield {"contender": contender, "how": how, "budget": budget, "seed": args.seed}


def measure(key: Result, args: argparse.Namespace) -> Result:
    """Run a contender within its budget."""
    print(f"{key['contender']}, {key['how']}, {key['budget']} s", file=sys.stderr, flush=True)
    measured = measure_ours(key, args) if key["how"] in one_pass_rows.ROWS else measure_theirs(key, args)
    return {"machine": one_pass.machine()} | measured


def measure_ours(key: Result, args: argparse.Namespace) -> Result:
    result = one_pass.run(key["how"], args)
    correct = np.load(one_pass.row_folder(key["how"], args.out, args.seed) / one_pass.CORRECT)
    return {
        "epochs": None,
        "seconds": round(result["prepared_seconds"] + result["seconds"]),
        "correct": int(correct.sum()),
        "images": len(correct),
        "curve": [],
    }


def measure_theirs(key: Result, args: argparse.Namespace) -> Result:
    """Train a contender of benchmarks/contenders.py in a process of its own."""
    name, image_size = key["contender"], key["how"].removesuffix(" px")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, str(ROOT / "benchmarks" / "contenders.py"), name, "--out", str(file)]
        command += ["--image-size", image_size, "--budget", str(key["budget"]), "--seed", str(key["seed"])]
        command += ["--photos", str(photo_folders(args)), "--weights", str(args.weights)]
        subprocess.run(command, check=True)
        epochs = json.loads(file.read_text())["epochs"]
    curve = [(round(row["seconds"]), round(row["test_correct"] / row["test_images"], 4)) for row in epochs]
    last = epochs[-1]
    return {
        "epochs": len(epochs),
        "seconds": round(last["seconds"]),
        "correct": last["test_correct"],
        "images": last["test_images"],
        "curve": curve,
    }


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


def dump(results: list[Result]) -> str:
    """JSON with a line for each run."""
    return "[\n" + ",\n".join(json.dumps(result) for result in results) + "\n]\n"


def show(results: list[Result], folder: Path) -> None:
    """Write the table and the figure, by budget and in the order of ``CONTENDERS``."""
    names = list(CONTENDERS)
    ordered = sorted(results, key=lambda run: (run["budget"], names.index(run["contender"]), run["how"]))
    (folder / "time_to_accuracy.md").write_text(markdown(ordered))
    draw(ordered, folder / "time_to_accuracy.png")


def accuracy(result: Result) -> tuple[float, float, float]:
    """Test top-1 and its 95 % interval."""
    correct, images = result["correct"], result["images"]
    return correct / images, *metrics.wilson_interval(correct, images)


def markdown(results: list[Result]) -> str:
    lines = [
        *sorted({f"resnet18, {result['machine']}" for result in results}),
        "",
        "| budget | who | how | epochs | seconds | test top-1 [95 %] |",
        "|---:|---|---|---:|---:|---:|",
    ]
    for result in results:
        top1, low, high = accuracy(result)
        who = CONTENDERS[result["contender"]] + (f", seed {result['seed']}" if result["seed"] else "")
        epochs = result["epochs"] or "-"
        shown = f"{top1:.1%} [{low:.1%}, {high:.1%}]".replace("%", " %")
        lines.append(
            f"| {result['budget']} s | {who} | {result['how']} | {epochs} | {result['seconds']:,} | {shown} |"
        )
    return "\n".join(lines) + "\n"


def draw(results: list[Result], file: Path) -> None:
    """Test top-1 with its 95 % interval over a run's minutes, a colour for each project and image size."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=120, layout="constrained")
    lines: dict[str, list[Result]] = {}
    for result in results:
        who, how = CONTENDERS[result["contender"]], result["how"]
        label = {"finegrain": who, "reproduced": how}.get(result["contender"], f"{who}, {how}")
        lines.setdefault(label, []).append(result)
    for label, line in lines.items():
        minutes = [result["seconds"] / 60 for result in line]
        top1, low, high = np.array([accuracy(result) for result in line]).T
        style = {"linewidth": 2.5, "zorder": 3} if label == "finegrain" else {"linewidth": 0}
        drawn = axes.errorbar(
            minutes,
            100 * top1,
            yerr=100 * np.array([top1 - low, high - top1]),
            elinewidth=1.2,
            marker="o",
            capsize=2,
            label=label,
            **style,
        )
        for result in line:
            seconds, over_epochs = np.array(result["curve"]).reshape(-1, 2).T
            axes.plot(seconds / 60, 100 * over_epochs, color=drawn[0].get_color(), linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.set(xlabel="minutes on the clock, everything counted", ylabel="test top-1, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(0, 0.46))
    figure.savefig(file)
    plt.close(figure)


if __name__ == "__main__":
    main()
