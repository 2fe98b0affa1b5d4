"""Accuracy and time of an exact head on one pass over the photos, against a linear probe and fine-tuning.

Each row is recipes/one-pass.yaml, or another recipe, with a few keys changed, trained by the project's own
stage in a process of its own, one after another. Seconds are the whole training stage: imports, the pass over
training and validation images, the solution, and the model's file. "Passes" are these seconds in forward
passes of the training images through the whole network, at the image size of the last phase.

    python benchmarks/one_pass.py --archive part-1.zip part-2.zip --weights resnet18.safetensors

Prints a Markdown table and writes it to the folder --out; a row that was run before is read from there.
--seed changes the training of rows with epochs, and the split of no row.
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
import one_pass_rows  # noqa: E402
import shared  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
import yaml  # noqa: E402

from finegrain.core import paths  # noqa: E402
from finegrain.evaluation import metrics  # noqa: E402
from finegrain.loading.batches import PackedSplit  # noqa: E402
from finegrain.models import inference, storage  # noqa: E402
from finegrain.runtime import devices, provenance  # noqa: E402

CORRECT = "test_correct.npy"
"""Whether each test photo is predicted correctly, ``[N]`` bool, in a row's folder."""
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


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
        default=list(one_pass_rows.ROWS),
        choices=list(one_pass_rows.ROWS),
        metavar="ROW",
        help="rows of the table to measure",
    )
    parser.add_argument("--seed", type=int, default=0, help="of training")
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
    """The row's recipe with its changes."""
    changes = dict(one_pass_rows.ROWS[row])
    data = shared.recipe(changes.pop("recipe", "one-pass"), args.archive, args.model, args.seed)
    weights = str(Path(args.weights).resolve()) if Path(args.weights).exists() else args.weights
    data |= {"weights": weights, "precision": args.precision, "checkpoint_seconds": 600}
    for key, value in changes.items():
        merges = isinstance(value, dict) and key != "phases"
        data[key] = data[key] | value if merges else value
    last = list(data["phases"].values())[-1]
    data["evaluate"]["flip"] = last.get("flip", data["evaluate"]["flip"])
    return data


def finished(row: str, args: argparse.Namespace) -> dict[str, Any] | None:
    """What an earlier run has recorded of a row with the same parameters."""
    folder = row_folder(row, args.out, args.seed)
    if not (folder / "result.json").is_file():
        return None
    if yaml.safe_load((folder / "params.yaml").read_text()) != parameters(row, args):
        return None
    return dict(json.loads((folder / "result.json").read_text()))


def row_folder(row: str, out: Path, seed: int) -> Path:
    """Folder of a row's parameters, model and result."""
    return out / (row.replace(" ", "-") + (f"-seed-{seed}" if seed else ""))


def run(row: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and test metrics of a row."""
    if result := finished(row, args):
        return result
    data = parameters(row, args)
    folder = row_folder(row, args.out, args.seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    packed = prepare(data, args)
    (folder / "data" / shared.CARS).mkdir(parents=True, exist_ok=True)
    for name in ("pack", "manifest.csv"):
        link = folder / "data" / shared.CARS / name
        link.unlink(missing_ok=True)
        link.symlink_to((packed / "data" / shared.CARS / name).resolve())
    seconds = stage_seconds("train", folder, args)
    files = paths.Run(shared.CARS, args.model, args.seed)
    metadata = json.loads((folder / files.sidecar).read_text())
    correct = predict_test(folder, args)
    np.save(folder / CORRECT, correct)
    low, high = metrics.wilson_interval(int(correct.sum()), len(correct))
    result = {
        "seconds": seconds,
        "prepared_seconds": float((packed / "seconds").read_text()),
        "forward_seconds": forward_seconds(folder, data, metadata["environment"]["precision"]),
        "test": {"top1": float(correct.mean()), "top1_low": low, "top1_high": high},
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


def predict_test(folder: Path, args: argparse.Namespace) -> npt.NDArray[np.bool_]:
    """Whether the model of a row predicts each test photo correctly, ``[N]``."""
    files = paths.Run(shared.CARS, args.model, args.seed)
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
    command = shared.command(stage, args.model, args.seed)
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
