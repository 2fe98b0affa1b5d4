"""Peak memory and time of split and pack at several numbers of images: python benchmarks/memory.py 1600 6500

Draws the sample at each size in a temporary folder, runs the stages as DVC does, and prints a
Markdown table.
With ``--archive FILE ...`` it also measures a local archive of photos.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=int, nargs="+")
    parser.add_argument("--archive", nargs="*", default=[], help="part files of one archive")
    parser.add_argument("--side", type=int, default=128, help="pixels of the drawn and packed images")
    args = parser.parse_args()
    sources: list[tuple[str, dict[str, object]]] = [
        (f"{12 * each:,} drawn", {"source": "sample", "images_per_class": each, "side_pixels": args.side})
        for each in (round(n / 12) for n in args.images)
    ]
    if args.archive:
        sources.append(
            ("photos", {"source": "archive", "path": [str(Path(a).resolve()) for a in args.archive]})
        )
    print("| images | stage | seconds | peak memory, MiB |\n|---|---|---:|---:|")
    for label, dataset in sources:
        with tempfile.TemporaryDirectory() as folder:
            params = yaml.safe_load((ROOT / "params.yaml").read_text())
            params |= {"dataset": {"name": "d", **dataset}, "pack": {"side_pixels": args.side}}
            Path(folder, "params.yaml").write_text(yaml.safe_dump(params))
            for stage in ("download", "split", "pack"):
                seconds, peak = run(stage, folder)
                print(f"| {label} | {stage} | {seconds:.1f} | {peak / 2**20:.0f} |", flush=True)


def run(stage: str, folder: str) -> tuple[float, int]:
    """Seconds and peak resident bytes of one stage in a process of its own."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, ROOT / "src" / f"{stage}.py"], cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{stage} failed")
    return time.monotonic() - start, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
