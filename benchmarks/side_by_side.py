"""Speed of two runs at once on one CPU, and of one alone: python benchmarks/side_by_side.py

Each run is a process of its own that trains on one fixed batch (bfloat16 if the CPU has it, channels_last,
SGD) for some seconds; all start together. The ways take turns in every round. Prints a Markdown table of
images per second, summed over the runs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import command_line

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "--models", nargs="+", default=["resnet18", "resnet50"], help="networks, by torchvision's names"
    )
    parser.add_argument("--image-size", type=int, default=64, help="in pixels")
    parser.add_argument("--batch-size", type=int, default=16, help="images in a batch")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds that each run trains")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measurements")
    parser.add_argument("--begin", type=float, help=argparse.SUPPRESS)  # in a process that trains
    args = parser.parse_args()
    if args.begin is not None:
        print(train(args))
        return
    cores = os.cpu_count() or 1
    ways = {
        "one": (1, cores),
        "two, all cores each": (2, cores),
        "two, half of the cores each": (2, cores // 2),
    }
    print("| model | runs | threads each | images/s together |")
    print("|---|---|---:|---:|")
    for model in args.models:
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, (count, threads) in ways.items():
                found[way].append(together(args, model, count, max(1, threads)))
        for way, (_, threads) in ways.items():
            rates = found[way]
            shown = f"{statistics.median(rates):.0f} [{min(rates):.0f}, {max(rates):.0f}]"
            print(f"| {model} | {way} | {max(1, threads)} | {shown} |", flush=True)


def together(args: argparse.Namespace, model: str, count: int, threads: int) -> float:
    words = [
        "--models",
        model,
        "--image-size",
        args.image_size,
        "--batch-size",
        args.batch_size,
        "--seconds",
        args.seconds,
    ]
    begin = time.time() + 12  # all have imported torch by then
    command = [sys.executable, __file__, *map(str, words), "--begin", str(begin)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT / "src")}
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    return sum(float(process.communicate()[0]) for process in running)


def train(args: argparse.Namespace) -> float:
    """Train from the time ``args.begin`` on; returns images per second."""
    from finegrain.core import allocator

    allocator.keep_freed_memory()
    import torch

    from finegrain.config.training import HeadParams
    from finegrain.models import build
    from finegrain.runtime import devices

    device = torch.device("cpu")
    net = build.build_model(args.models[0], 10, "none", HeadParams(), seed=0).to(
        memory_format=torch.channels_last
    )
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, fused=True)
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size).to(
        memory_format=torch.channels_last
    )
    labels = torch.arange(args.batch_size) % 10
    dtype = devices.autocast_dtype("auto", device)
    steps = 0
    time.sleep(max(0.0, args.begin - time.time()))
    while (spent := time.time() - args.begin) < args.seconds:
        with devices.autocast(device, dtype):
            loss = torch.nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    return steps * args.batch_size / spent


if __name__ == "__main__":
    main()
