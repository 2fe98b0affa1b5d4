"""Images per second of whole training epochs, ours and other ways, on the same photos and networks.

    pip install -r benchmarks/requirements.txt      # timm and fastai; the other ways need no more packages
    python benchmarks/throughput.py --archive part-1.zip part-2.zip part-3.zip part-4.zip

An epoch includes everything: read or decode, augment, forward, backward, optimizer, and the start of worker
processes if a way restarts them. Every measurement is a process of its own (throughput_way.py) that trains
one epoch to warm up and times the next. The ways take turns in every round, so that the machine's noise
affects all of them equally, and ratios are taken within a round. Prints Markdown and writes it, with every
measurement as JSON, to the folder --out after every measurement. Nothing else should run on the machine
meanwhile.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import command_line
import shared
import throughput_table
import yaml
from throughput_way import WAYS

from finegrain.core import file_io
from finegrain.runtime import provenance

TOY = {"models": ["resnet18"], "image_size": 64, "images": 32, "batch_size": 8, "rounds": 1}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    missing = [name for name in args.ways if not installed(name)]
    for name in missing:
        print(f"{name}: not installed, left out; pip install -r benchmarks/requirements.txt", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="throughput-") as temporary:
        photos, project = Path(temporary, "photos"), Path(temporary, "project")
        shared.write_photos(args.archive, photos, args.images, args.image_size)
        facts = settings(args) | {"pack_seconds": pack(photos, project, args)}
        runs: list[throughput_table.Run] = []
        for round_ in range(1, args.rounds + 1):
            for model in args.models:
                for way in args.ways:
                    if way not in missing:
                        key = {"round": round_, "model": model, "way": way}
                        runs.append(key | measure(way, model, photos, project, args))
                        say(runs[-1], args.rounds)
                        write(args, facts, runs)
    if not runs:
        sys.exit("none of the requested ways is installed")
    print(write(args, facts, runs))
    if any("error" in run for run in runs):
        sys.exit("some measurements failed: see above")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line.parser(__doc__)
    parser.add_argument("--archive", type=Path, nargs="+", default=[], help="zips of class folders of JPEGs")
    parser.add_argument(
        "--models", nargs="+", default=["resnet18", "resnet50"], help="networks, by torchvision's names"
    )
    parser.add_argument("--image-size", type=int, default=224, help="of training, in pixels")
    parser.add_argument("--images", type=int, default=512, help="images per epoch")
    parser.add_argument("--batch-size", type=int, default=32, help="for the ways that do not set their own")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measurements")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="ways to measure")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="worker processes of torchvision's and timm's loaders",
    )
    parser.add_argument(
        "--out", type=Path, default=shared.ROOT / ".throughput", help="folder for the results"
    )
    parser.add_argument(
        "--toy", action="store_true", help="small defaults: generated images, within about a minute"
    )
    if parser.parse_known_args(argv)[0].toy:
        parser.set_defaults(**TOY)
    args = parser.parse_args(argv)
    if not (args.archive or args.toy):
        parser.error("give --archive, or --toy to draw images")
    return args


def installed(way: str) -> bool:
    package = WAYS[way].package
    return package is None or importlib.util.find_spec(package) is not None


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the figures depend on except the code."""
    packages = ["torch", "torchvision", *sorted({w.package for w in WAYS.values() if w.package})]
    names = ("models", "image_size", "images", "batch_size", "rounds", "workers")
    return {
        "revision": provenance.git_revision(),
        "photos": [file.name for file in args.archive] or "drawn",
        **{name: getattr(args, name) for name in names},
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "variables": {k: v for k, v in os.environ.items() if k.startswith(("OMP_", "MKL_", "KMP_", "GOMP_"))},
    }


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def pack(photos: Path, project: Path, args: argparse.Namespace) -> dict[str, float]:
    """Run the project's own stages on the photos; returns the seconds of each, which are spent once."""
    project.mkdir()
    data = shared.settings(photos, args.image_size, args.batch_size)
    (project / "params.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    seconds = {}
    for stage in ("download", "split", "pack"):
        started = time.monotonic()
        command = [sys.executable, str(shared.ROOT / "src" / f"{stage}.py")]
        subprocess.run(command, cwd=project, check=True, env=environment())
        seconds[stage] = round(time.monotonic() - started, 2)
    return seconds


def environment() -> dict[str, str]:
    """Environment of child processes, which import this checkout's package, not an installed one."""
    return {**os.environ, "PYTHONPATH": str(shared.ROOT / "src")}


def measure(
    way: str, model: str, photos: Path, project: Path, args: argparse.Namespace
) -> throughput_table.Run:
    batch_size = WAYS[way].batch_size or args.batch_size
    load = os.getloadavg()[0]
    command = [
        *(sys.executable, str(shared.ROOT / "benchmarks" / "throughput_way.py"), way),
        *("--photos", str(photos), "--model", model, "--image-size", str(args.image_size)),
        *("--batch-size", str(batch_size), "--workers", str(args.workers)),
        *("--spawned", repr(time.monotonic())),
    ]
    done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        last = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        return {"batch_size": batch_size, "error": last[0], "load_before": load}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    speed = found["images"] / found["epoch_seconds"]
    return {"batch_size": batch_size, **found, "images_per_second": speed, "load_before": load}


def say(run: throughput_table.Run, rounds: int) -> None:
    result = run.get("error") or (
        f"{run['images_per_second']:.1f} images/s, first step after {run['startup_seconds']:.1f} s"
    )
    print(f"round {run['round']} of {rounds}, {run['model']}, {run['way']}: {result}", file=sys.stderr)


def write(args: argparse.Namespace, facts: dict[str, Any], runs: Sequence[throughput_table.Run]) -> str:
    """Write the results so far; returns the Markdown."""
    rows = [
        throughput_table.row(runs, model, way) | {"installed": installed(way)}
        for model in args.models
        for way in args.ways
    ]
    text = throughput_table.markdown(facts, rows)
    file_io.write_json(args.out / "throughput.json", {**facts, "table": rows, "runs": list(runs)})
    file_io.write_text(args.out / "throughput.md", text)
    return text


if __name__ == "__main__":
    main()
