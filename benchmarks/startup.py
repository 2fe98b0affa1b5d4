"""Overhead of the pipeline: start-up, an unchanged `dvc repro`, and DVC's share per stage.

    python benchmarks/startup.py

Clones the last commit into a temporary folder, makes its sample tiny, so that nearly all the time is
overhead, and runs it there. Prints Markdown and writes it, with every figure as JSON, to the folder --out.
Times are wall-clock seconds, medians of --repeats. DVC's share is the time of a forced `dvc repro` minus that
of the same scripts run one after another without it.
"""

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import command_line
import yaml

from finegrain.core import file_io
from finegrain.runtime import provenance

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("download", "split", "pack", "train", "evaluate", "compare", "winner")
EACH_MODEL = ("train", "evaluate")
FIRST_STEP = """
import os, sys, time
sys.path.insert(0, "src")
import train
from finegrain.training import loop
real = loop.train_step
def first(*arguments):
    real(*arguments)
    print(time.monotonic(), flush=True)
    os._exit(0)
loop.train_step = first
train.main(["--model", sys.argv[1], "--seed", "0"])
"""
"""Script that runs stage train until its first optimization step has ended."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet18"], help="networks, by torchvision's names")
    parser.add_argument("--repeats", type=int, default=3, help="times that each measurement is repeated")
    parser.add_argument("--out", type=Path, default=ROOT / ".startup", help="folder for the results")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="startup-") as temporary:
        clone = Path(temporary, "clone")
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        shrink(clone, args.models)
        facts = measure(clone, args.models, args.repeats)
    text = markdown(facts)
    file_io.write_json(args.out / "startup.json", {"revision": provenance.git_revision(), **facts})
    file_io.write_text(args.out / "startup.md", text)
    print(text)


def shrink(clone: Path, models: Sequence[str]) -> None:
    file = clone / "params.yaml"
    data = yaml.safe_load(file.read_text())
    data["dataset"] |= {"images_per_class": 8, "image_size": 32}
    data["pack"]["image_size"] = 32
    data["models"] = list(models)
    data["phases"]["all"] |= {"epochs": 1, "image_size": 32}
    file.write_text(yaml.safe_dump(data, sort_keys=False))


def measure(clone: Path, models: Sequence[str], repeats: int) -> dict[str, Any]:
    """Measure the scripts alone, then with DVC: once DVC has run, outputs may be links into its cache."""
    python = shlex.quote(sys.executable)
    stages = []
    for stage in STAGES:
        for model in models if stage in EACH_MODEL else [""]:
            script = f"{python} src/{stage}.py"
            stages.append(
                {
                    "stage": f"{stage}@{model}" if model else stage,
                    "imports_seconds": median(clone, f"{script} --help", repeats),
                    "alone_seconds": median(
                        clone, f"{script} --model {model} --seed 0" if model else script, repeats
                    ),
                }
            )
            print(f"{stages[-1]}", file=sys.stderr)
    found: dict[str, Any] = {
        "models": list(models),
        "repeats": repeats,
        "cores": os.cpu_count(),
        "import_torch_seconds": median(clone, f"{python} -c 'import torch, torchvision'", repeats),
        "first_step_seconds": statistics.median(first_step(clone, models[0]) for _ in range(repeats)),
        "stages": stages,
        "alone_seconds": sum(stage["alone_seconds"] for stage in stages),
    }
    median(clone, "dvc repro", 1)
    found["unchanged_seconds"] = median(clone, "dvc repro", repeats)
    found["status_seconds"] = median(clone, "dvc status", repeats)
    found["forced_seconds"] = median(clone, "dvc repro --force", repeats)
    found["dvc_seconds_per_stage"] = (found["forced_seconds"] - found["alone_seconds"]) / len(stages)
    return found


def median(clone: Path, command: str, repeats: int) -> float:
    """Median seconds of a shell command in the clone."""
    return statistics.median(seconds(clone, command) for _ in range(repeats))


def seconds(clone: Path, command: str) -> float:
    started = time.monotonic()
    done = subprocess.run(
        command, shell=True, cwd=clone, env=environment(clone), capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return time.monotonic() - started


def environment(clone: Path) -> dict[str, str]:
    """Environment variables: this python and its dvc first, the clone's own package, no DVC analytics."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(clone / "src"), "DVC_NO_ANALYTICS": "1"}


def first_step(clone: Path, model: str) -> float:
    """Seconds from the start of stage train's process to the end of its first optimization step."""
    started = time.monotonic()
    command = [sys.executable, "-c", FIRST_STEP, model]
    done = subprocess.run(command, cwd=clone, env=environment(clone), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"train: exit {done.returncode}\n{done.stderr}")
    return float(done.stdout.split()[-1]) - started


def markdown(facts: dict[str, Any]) -> str:
    lines = [
        "| what | seconds |",
        "|---|---:|",
        f"| stage train, {facts['models'][0]}: start to end of the first step | "
        f"{facts['first_step_seconds']:.2f} |",
        f"| plain `import torch, torchvision`, alone | {facts['import_torch_seconds']:.2f} |",
        f"| `dvc repro`, nothing changed, {len(facts['stages'])} stages | {facts['unchanged_seconds']:.2f} |",
        f"| `dvc status`, nothing changed | {facts['status_seconds']:.2f} |",
        f"| `dvc repro --force` | {facts['forced_seconds']:.2f} |",
        f"| the same scripts without DVC | {facts['alone_seconds']:.2f} |",
        f"| DVC, per stage | {facts['dvc_seconds_per_stage']:.2f} |",
        "",
        "| stage, on the tiny sample | start and imports, s | total, s |",
        "|---|---:|---:|",
        *(
            f"| {row['stage']} | {row['imports_seconds']:.2f} | {row['alone_seconds']:.2f} |"
            for row in facts["stages"]
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
