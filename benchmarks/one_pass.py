"""Accuracy and time of an exact head on one pass over the photos, against a linear probe and fine-tuning.

Each row is recipes/one-pass.yaml with a few keys changed, trained by the project's own stage in a process of
its own, one after another. Seconds are the whole training stage: imports, the pass over training and
validation images, the solution, and the model's file. "Passes" are these seconds in forward passes of the
training images through the whole network, at the image size of the last phase.

    python benchmarks/one_pass.py --archive part-1.zip part-2.zip --weights resnet18.safetensors

Prints a Markdown table and writes it to the folder --out; a row that was run before is read from there.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from finegrain.core import allocator  # noqa: E402  (before anything imports torch)

allocator.keep_freed_memory()

import command_line  # noqa: E402
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import shared  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
import yaml  # noqa: E402

from finegrain.core import paths  # noqa: E402
from finegrain.evaluation import metrics  # noqa: E402
from finegrain.loading.batches import PackedSplit  # noqa: E402
from finegrain.models import inference, storage  # noqa: E402
from finegrain.runtime import devices, provenance  # noqa: E402

TUNE = {
    "trainable": "all",
    "epochs": 5,
    "image_size": 128,
    "optimizer": {"kind": "adamw", "betas": [0.9, 0.99], "weight_decay": 0.05, "decay_norm_and_bias": False},
    "schedule": {"kind": "one_cycle", "pct_start": 0.3, "momentum_range": [0.85, 0.95]},
    "layer_decay": 0.8,
}
"""The phase of recipes/photos.yaml, at the size and length for a CPU."""
COVARIANCES = {
    "head": {"pool": "covariance", "stage": "layer3", "channels": 32},
    "lr": 0.01,
    "layer_decay": None,
    "layer_lr_multipliers": [0.05, 0.1, 1.0],
}
"""Fine-tuning under a head on covariances of layer3, which is thrown away too; layer4 takes no part."""
FEW = {"val_ratio": 0.02}
"""One photo of each class for validation: the other rows keep 15 % back, this one trains on them."""
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
LINEAR = {"pool": "avg", "stage": "layer4", "channels": None}


def solve(image_size: int, flip: bool = False) -> dict[str, Any]:
    return {"solve": "ridge", "image_size": image_size, "flip": flip}


def tuned(solve_size: int, flip: bool, **changes: Any) -> dict[str, Any]:
    return {"tune": {**TUNE, "head": {}, **changes}, "solve": solve(solve_size, flip)}


ROWS: dict[str, dict[str, Any]] = {
    "fine-tuned, 5 epochs at 128 px": {"phases": {"all": TUNE}, "head": LINEAR},
    "linear probe (average of layer4), 224 px": {"phases": {"solve": solve(224)}, "head": LINEAR},
    "layer3, 128 px": {"phases": {"solve": solve(128)}, "head": {"stage": "layer3"}},
    "layer4, 128 px": {"phases": {"solve": solve(128)}, "head": {"stage": "layer4"}},
    "layer2 + layer3, 96 px": {"phases": {"solve": solve(96)}},
    "layer2 + layer3, 128 px": {"phases": {"solve": solve(128)}},
    "layer2 + layer3, 160 px": {"phases": {"solve": solve(160)}},
    "layer2 + layer3, 224 px": {"phases": {"solve": solve(224)}},
    "layer2 + layer3, 224 px, flip": {"phases": {"solve": solve(224, True)}},
    "layer2 + layer3, 320 px, flip": {"phases": {"solve": solve(320, True)}, "pack": {"image_size": 320}},
    "32 channels, 224 px, flip": {"phases": {"solve": solve(224, True)}, "head": {"channels": 32}},
    "8 channels, 224 px, flip": {"phases": {"solve": solve(224, True)}, "head": {"channels": 8}},
    "random weights, 128 px": {"phases": {"solve": solve(128)}, "weights": "none"},
    "5 epochs at 128 px, then 224 px, flip": {"phases": tuned(224, True)},
    "layer2 + layer3, 224 px, flip, refit": {"phases": {"solve": solve(224, True)}, "refit": True},
    "5 epochs at 128 px, then 224 px, flip, refit": {"phases": tuned(224, True), "refit": True},
    "6 epochs at 160 px, then 288 px, flip": {
        "phases": tuned(288, True, epochs=6, image_size=160),
        "pack": {"image_size": 288},
    },
    "layer2 + layer3 + layer4, 5 epochs at 128 px, then 224 px, flip": {
        "phases": tuned(224, True),
        "head": {"stage": ["layer2", "layer3", "layer4"]},
    },
    "5 epochs at 128 px with covariances, then 224 px, flip": {"phases": tuned(224, True, **COVARIANCES)},
    "12 epochs at 192 px with covariances, then 320 px, flip": {
        "phases": tuned(320, True, epochs=12, image_size=192, **COVARIANCES),
        "pack": {"image_size": 320},
    },
    "few for validation: 5 epochs at 128 px, then 224 px, flip": {"phases": tuned(224, True), "split": FEW},
    "few for validation: 6 epochs at 160 px, then 288 px, flip": {
        "phases": tuned(288, True, epochs=6, image_size=160),
        "split": FEW,
        "pack": {"image_size": 288},
    },
    "few for validation: 12 epochs at 192 px, then 320 px, flip": {
        "phases": tuned(320, True, epochs=12, image_size=192),
        "split": FEW,
        "pack": {"image_size": 320},
    },
    "few for validation: 6 epochs at 160 px with covariances, then 288 px, flip": {
        "phases": tuned(288, True, epochs=6, image_size=160, **COVARIANCES),
        "split": FEW,
        "pack": {"image_size": 288},
    },
    "few for validation: 12 epochs at 192 px with covariances, then 320 px, flip": {
        "phases": tuned(320, True, epochs=12, image_size=192, **COVARIANCES),
        "split": FEW,
        "pack": {"image_size": 320},
    },
}
"""Changes to the recipe by the name of the row; sections are merged with the recipe's, phases replace it."""


def main() -> None:
    parser = command_line.parser(__doc__)
    add_inputs(parser)
    parser.add_argument("--model", default="resnet18", help="network, by torchvision's name")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "fp32", "bf16", "fp16"],
        help="number format of the arithmetic",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        default=list(ROWS),
        choices=list(ROWS),
        metavar="ROW",
        help="rows of the table to measure",
    )
    parser.add_argument("--out", type=Path, default=ROOT / ".one-pass", help="folder for runs and results")
    args = parser.parse_args()
    results = {row: run(row, args) for row in args.rows}
    table = markdown(results, args)
    print(table)
    (args.out / "table.md").write_text(table)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the photos and the pretrained weights."""
    parser.add_argument(
        "--archive", type=Path, nargs="+", required=True, help="class folders, or zips of them"
    )
    parser.add_argument("--weights", default="IMAGENET1K_V1", help="a weights file, or torchvision's name")


def parameters(row: str, args: argparse.Namespace) -> dict[str, Any]:
    """The recipe with the row's changes."""
    data = shared.recipe("one-pass", args.archive, args.model, 0)
    weights = str(Path(args.weights).resolve()) if Path(args.weights).exists() else args.weights
    data |= {"weights": weights, "precision": args.precision, "checkpoint_seconds": 600}
    for key, value in ROWS[row].items():
        merges = isinstance(value, dict) and key != "phases"
        data[key] = data[key] | value if merges else value
    last = list(data["phases"].values())[-1]
    data["evaluate"]["flip"] = last.get("flip", True)
    return data


def finished(row: str, args: argparse.Namespace) -> dict[str, Any] | None:
    """What an earlier run has recorded of a row with the same parameters."""
    folder = row_folder(row, args.out)
    if not (folder / "result.json").is_file():
        return None
    if yaml.safe_load((folder / "params.yaml").read_text()) != parameters(row, args):
        return None
    return dict(json.loads((folder / "result.json").read_text()))


def row_folder(row: str, out: Path) -> Path:
    """Folder of a row's parameters, model and result."""
    return out / row.replace(" ", "-")


def run(row: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and test metrics of a row."""
    if result := finished(row, args):
        return result
    data = parameters(row, args)
    folder = row_folder(row, args.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    packed = prepare(data, args)
    (folder / "data" / shared.CARS).mkdir(parents=True, exist_ok=True)
    for name in ("pack", "manifest.csv"):
        link = folder / "data" / shared.CARS / name
        link.unlink(missing_ok=True)
        link.symlink_to((packed / "data" / shared.CARS / name).resolve())
    seconds = stage_seconds("train", folder, args)
    files = paths.Run(shared.CARS, args.model, 0)
    metadata = json.loads((folder / files.sidecar).read_text())
    result = {
        "seconds": seconds,
        "prepared_seconds": float((packed / "seconds").read_text()),
        "forward_seconds": forward_seconds(folder, data, metadata["environment"]["precision"]),
        "test": test_accuracy(folder, args),
        "leave_one_out": metadata["leave_one_out"],
        "bytes": (folder / files.weights).stat().st_size,
        "precision": metadata["environment"]["precision"],
    }
    (folder / "result.json").write_text(json.dumps(result))
    return result


def prepare(data: dict[str, Any], args: argparse.Namespace) -> Path:
    """Folder with the packed photos that rows of the same pack and split share; its file ``seconds`` has the
    time of the stages download, split and pack."""
    pack = data["pack"]
    folder = args.out / f"photos-{pack['image_size']}-{pack['fit']}-{data['split']['val_ratio']}"
    if not (folder / "seconds").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        seconds = sum(stage_seconds(stage, folder, args) for stage in ("download", "split", "pack"))
        (folder / "seconds").write_text(f"{seconds:.1f}")
    return Path(folder)


def test_accuracy(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Top-1 of the saved model on the test photos, with its 95 % interval."""
    correct = test_correct(folder, args.model)
    low, high = metrics.wilson_interval(int(correct.sum()), len(correct))
    return {"top1": float(correct.mean()), "top1_low": low, "top1_high": high}


def test_correct(folder: Path, model: str) -> npt.NDArray[np.bool_]:
    """Whether the model of a row predicts each test photo correctly, ``[N]``."""
    files = paths.Run(shared.CARS, model, 0)
    net, metadata = storage.load_model(folder / files.weights, folder / files.sidecar)
    pack = folder / paths.Dataset(shared.CARS).pack
    split = PackedSplit(pack, "test", torch.device("cpu"), metadata["mean"], metadata["std"])
    dtype = devices.DTYPES[metadata["environment"]["precision"]]
    flip = yaml.safe_load((folder / "params.yaml").read_text())["evaluate"]["flip"]
    logits, labels = inference.predict_split(net, split, metadata["image_size"], dtype, flip, label="test")
    return (logits.argmax(1) == labels).numpy()


def forward_seconds(folder: Path, data: dict[str, Any], precision: str) -> float:
    """Seconds of one forward pass of the training photos through the whole network, on average pooling."""
    split = PackedSplit(folder / paths.Dataset(shared.CARS).pack, "train", torch.device("cpu"), *IMAGENET)
    net = torchvision.models.get_model(data["models"][0]).to(memory_format=torch.channels_last)
    started = time.monotonic()
    size = list(data["phases"].values())[-1]["image_size"]
    inference.predict_split(net, split, size, devices.DTYPES[precision], label="forward pass")
    return time.monotonic() - started


def stage_seconds(stage: str, folder: Path, args: argparse.Namespace) -> float:
    """Run a stage without anything that an earlier row has left behind, and return its seconds."""
    print(f"{folder.name}: {stage}", file=sys.stderr, flush=True)
    subprocess.run(["rm", "-rf", str(folder / ".checkpoints")], check=True)
    started = time.monotonic()
    command = shared.command(stage, args.model, 0)
    subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PYTHONPATH": ""})
    return time.monotonic() - started


def machine() -> str:
    """Threads, instruction set and torch's version, as a table's heading."""
    environment = provenance.environment(torch.device("cpu"), torch.float32)
    return f"{environment['threads']} threads, {environment['cpu_capability']}, torch {environment['torch']}"


def markdown(results: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    precision = next(iter(results.values()))["precision"]
    lines = [
        f"{args.model}, {machine()}, precision {precision}",
        "",
        "| what | train stage | passes | leave-one-out | test top-1 [95 %] | file |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row, result in results.items():
        test, one_out = result["test"], result["leave_one_out"]
        estimate = f"{one_out['top1']:.1%}" if one_out else ""
        accuracy = f"{test['top1']:.1%} [{test['top1_low']:.1%}, {test['top1_high']:.1%}]"
        size = f"{result['bytes'] / 1e6:.0f} MB"
        passes = result["seconds"] / result["forward_seconds"]
        lines.append(
            f"| {row} | {result['seconds']:.0f} s | {passes:.1f} | {estimate} | {accuracy} | {size} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
