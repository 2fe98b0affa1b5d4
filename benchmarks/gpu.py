"""Training speed on one GPU: torchvision's loader, our loader and step, and the step on one fixed batch.

The operations and bytes of the step are counted, and a model that is far below its ceiling is profiled.

    bash benchmarks/gpu.sh [OUT] [PHOTOS.zip ...]

Random weights, bfloat16, photos from zips of class folders or generated images. Every figure is measured over
whole epochs between two synchronizations with the GPU, after one warm-up epoch. All ways run in this process,
so the allocator settings of finegrain.core apply to all of them. Results are written to OUT as they come, and
printed at the end; what does not fit into --minutes is left out and listed.
"""

import argparse
import contextlib
import gc
import itertools
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from finegrain.core import process  # isort: skip  # noqa: F401  (sets the allocator before torch is imported)
import command_line
import gpu_bound
import gpu_measure
import gpu_table
import shared
import throughput_others
import throughput_way
import torch
import yaml
from throughput_task import Epoch, FirstStep, Task

from finegrain.augmentation import transform
from finegrain.config import params
from finegrain.core import file_io
from finegrain.runtime import devices
from finegrain.training.cuda_graph import GraphedFunction

MODELS = ["resnet18", "resnet34", "resnet50", "wide_resnet50_2", "resnext50_32x4d"]
TOY = {
    "models": ["resnet18"], "batch_sizes": [8], "image_size": 64, "images": 16, "seconds": 0.0,
    "minutes": 0.7,
}  # fmt: skip
ALL_AUGMENTATION = {
    "crop_scale": [0.5, 1.0], "rotate_degrees": 10.0, "zoom": 1.1, "perspective": 0.2,
    "warp_probability": 0.75,
    "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05, "color_probability": 0.75,
    "erase_probability": 0.25, "mixup_alpha": 0.2,
}  # fmt: skip
GROWING_EPOCHS = 6
AGREE = 1.0
"""Largest difference between kernels and operators, in levels of 255: both compute pixels in float16."""
PROFILED_BELOW = 0.95
"""Fraction of the ceiling below which a model is profiled."""
SMALL_BATCH = 4
"""Batch size of the SGD reference project, at which launching kernels takes longer than running them."""


class Bench:
    """The photos, their pack on the device, and the results so far."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder, self.photos = args, folder, folder / "photos"
        self.device = devices.select_device("auto")
        started = time.monotonic()
        shared.write_photos(args.archives, self.photos, args.images, args.image_size, repeat=True)
        gpu_measure.pack(self.photos, folder / "pack", shared.pack_image_size(args.image_size))
        self.split = throughput_way.our_split(self.config(args.batch_sizes[0]), folder / "pack", self.device)
        self.results: dict[str, Any] = {
            **gpu_measure.facts(self.device, args),
            "prepare_seconds": time.monotonic() - started,
            "cells": [],
            "growing": [],
            "batches_alone": [],
            "agreement": {},
            "bounds": [],
            "profiles": [],
            "left_out": [],
            "failed": [],
        }

    def config(self, batch_size: int, **changes: Any) -> params.Params:
        """The plain SGD recipe with changes; the name ``a__b`` means the key a.b."""
        data = shared.settings(self.photos, self.args.image_size, batch_size)
        data["precision"] = "bf16" if self.device.type == "cuda" else "auto"
        for key, value in changes.items():
            *parents, last = key.split("__")
            section = data
            for parent in parents:
                section = section[parent]
            section[last] = section[last] | value if isinstance(value, dict) else value
        file = self.folder / "params.yaml"
        file.write_text(yaml.safe_dump(data, sort_keys=False))
        return params.load_params(file)

    def way(self, name: str, model: str, batch_size: int) -> Epoch:
        if name == "torchvision":
            task = Task(self.photos, model, self.args.image_size, batch_size, self.args.workers)
            return throughput_others.torchvision_v2(task, FirstStep(0.0))
        config = self.config(batch_size, augment=ALL_AUGMENTATION if name == "ours, all augmentation" else {})
        job = throughput_way.our_job(config, self.split, model)
        if name == "ceiling, kernel by kernel":
            vars(job)["graphed"] = GraphedFunction(job.setup.net, None, batch_size)
        if name == gpu_table.COMPILED:
            job.setup.net.compile()
        start = throughput_way.ceiling_epochs if name.startswith("ceiling") else throughput_way.our_epochs
        return start(job, FirstStep(0.0))

    def cell(self, name: str, model: str, batch_size: int) -> None:
        gpu_measure.reset_memory(self.device)
        torch.backends.cudnn.benchmark = name == "ceiling, cuDNN tuned"
        try:
            found = gpu_measure.timed(self.way(name, model, batch_size), self.args.seconds)
        finally:
            torch.backends.cudnn.benchmark = False
        where = {"model": model, "batch_size": batch_size, "way": name}
        memory = devices.peak_memory_bytes(self.device)
        self.results["cells"].append(where | found | {"peak_memory_bytes": memory})

    def growing(self, model: str, batch_size: int) -> None:
        """Progressive resizing up to the full size, with all augmentation; each epoch is timed separately."""
        image_sizes = [max(32, 32 * round(self.args.image_size * 5 / 7 / 32)), self.args.image_size]
        phase = {"epochs": GROWING_EPOCHS, "image_size": image_sizes}
        config = self.config(batch_size, augment=ALL_AUGMENTATION, phases__all=phase)
        job = throughput_way.our_job(config, self.split, model)
        epoch = throughput_way.our_epochs(job, FirstStep(0.0))
        for number in range(1, GROWING_EPOCHS + 1):
            images, seconds = gpu_measure.once(epoch, number)
            row = {"model": model, "batch_size": batch_size, "epoch": number}
            self.results["growing"].append(
                row
                | {"image_size": job.phase.image_size_at(number - 1), "images_per_second": images / seconds}
            )

    def batches_alone(self, name: str, batch_size: int) -> None:
        """Our batches without a network: the speed of augmentation alone."""
        job = self.augmented_job("all augmentation" in name, batch_size)

        def epoch(number: int) -> int:
            return sum(len(labels) for _, labels in job.batches(number, self.args.image_size))

        row = {"augmentation": name, "batch_size": batch_size}
        with gpu_measure.by_operators() if gpu_table.BY_OPERATORS in name else contextlib.nullcontext():
            found = gpu_measure.timed(epoch, self.args.seconds)
        self.results["batches_alone"].append(row | found)

    def augmented_job(self, everything: bool, batch_size: int) -> Any:
        config = self.config(batch_size, augment=ALL_AUGMENTATION if everything else {})
        return throughput_way.our_job(config, self.split, "resnet18")

    def agreement(self, batch_size: int) -> None:
        """Check on this GPU that the kernels give the same batch as torch's operators."""
        if transform._triton_transform(self.split.device) is None:
            raise RuntimeError("the kernels do not run here; see the message above")
        job = self.augmented_job(True, batch_size)
        ours, _ = next(job.batches(1, self.args.image_size))
        with gpu_measure.by_operators():
            slow, _ = next(job.batches(1, self.args.image_size))
        _, factor = self.split.normalization
        largest = ((ours - slow).abs() / factor[:, None, None]).max().item()
        if not largest < AGREE:
            raise RuntimeError(f"kernels and operators differ by {largest:.2f} of 255")
        self.results["agreement"] = {"largest": largest}

    def bound(self, model: str, batch_size: int) -> None:
        """Operations and bytes of a step, and the rates that the GPU reaches for each."""
        gpu_measure.reset_memory(self.device)
        if "chip" not in self.results:
            self.results["chip"] = gpu_bound.chip(self.device)
        job = throughput_way.our_job(self.config(batch_size), self.split, model)
        row = {"model": model, "batch_size": batch_size}
        self.results["bounds"].append(row | gpu_bound.count(job))

    def profile(self, model: str, batch_size: int) -> None:
        """Profile our epoch for a model that is far below its ceiling."""
        speed = {
            cell["way"]: cell["images_per_second"]
            for cell in self.results["cells"]
            if (cell["model"], cell["batch_size"]) == (model, batch_size)
        }
        for name in ("ours", "ours, all augmentation"):
            if {name, "ceiling"} <= speed.keys() and speed[name] < PROFILED_BELOW * speed["ceiling"]:
                gpu_measure.reset_memory(self.device)
                row = {"model": model, "batch_size": batch_size, "way": name}
                found = gpu_bound.profile(self.way(name, model, batch_size), self.device)
                self.results["profiles"].append(row | found)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    deadline = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory(prefix="gpu-") as temporary:
        bench = Bench(args, Path(temporary))
        longest: dict[str, float] = {}
        for kind, label, work in plan(bench, args):
            left = deadline - time.monotonic()
            if left <= 1.2 * longest.get(kind, 0.0):
                bench.results["left_out"].append(label)
            else:
                started = time.monotonic()
                try:
                    work()
                except Exception as error:  # the other measurements still count
                    traceback.print_exc()
                    bench.results["failed"].append(
                        f"{label}: {type(error).__name__}: {error}".splitlines()[0]
                    )
                gc.collect()  # stops the workers of a loader that is no longer used
                took = time.monotonic() - started
                longest[kind] = max(longest.get(kind, 0.0), took)
                print(f"{left:.0f} s left; {label}: {took:.1f} s", file=sys.stderr, flush=True)
            text = write(args.out, bench.results)
    print(text)
    if bench.results["failed"]:
        sys.exit("some measurements failed: see above")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line.gpu_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, help="networks, by torchvision's names")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 64], help="images in a batch")
    parser.add_argument("--image-size", type=int, default=224, help="in pixels")
    parser.add_argument(
        "--images", type=int, default=4096, help="images per epoch; photos are repeated if there are fewer"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="least time for which epochs are repeated")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit for all measurements")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="worker processes of torchvision's loader"
    )
    return command_line.parse_with_toy(parser, argv, TOY, "small defaults, for a CPU: within a minute")


def plan(bench: Bench, args: argparse.Namespace) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """Yield kind, label and function of each measurement, the most important first."""
    first, *rest = args.batch_sizes

    def cells(size: int) -> Iterator[tuple[str, str, Callable[[], None]]]:
        for model, way in itertools.product(args.models, gpu_table.WAYS):
            yield way, f"{model}, batch {size}, {way}", partial(bench.cell, way, model, size)

    if bench.device.type == "cuda":
        yield "agreement", "kernels against operators", partial(bench.agreement, first)
    yield from cells(first)
    for model in args.models:
        yield "bound", f"{model}, operations and bytes", partial(bench.bound, model, first)
    for model in args.models:
        yield "profile", f"{model}, profile", partial(bench.profile, model, first)
    for model, way in itertools.product(args.models[:1], ("ours", "ceiling", "ceiling, kernel by kernel")):
        yield "small", f"{model}, batch {SMALL_BATCH}, {way}", partial(bench.cell, way, model, SMALL_BATCH)
    for name in gpu_table.AUGMENTATIONS:
        yield "alone", f"batches alone, {name}", partial(bench.batches_alone, name, first)
    for model in args.models:
        yield "growing", f"{model}, progressive resizing", partial(bench.growing, model, first)
    for size in rest:
        yield from cells(size)
    for model in args.models if bench.device.type == "cuda" else []:  # a minute each
        label = f"{model}, batch {first}, compiled"
        yield "compiled", label, partial(bench.cell, gpu_table.COMPILED, model, first)


def write(out: Path, results: dict[str, Any]) -> str:
    file_io.write_json(out / "gpu.json", results)
    text = gpu_table.markdown(results)
    file_io.write_text(out / "gpu.md", text)
    return text


if __name__ == "__main__":
    main()
