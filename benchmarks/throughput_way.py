"""Train in one of several ways and print its times as JSON; benchmarks/throughput.py runs this.

    python throughput_way.py torchvision --photos FOLDER --model resnet18 --image-size 224 --batch-size 32

Each way gets its own process: the allocator settings, worker processes and thread pools of one must not
affect another. For the same reason nothing here imports torch before the way itself does.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import command_line
import throughput_others
from throughput_task import Epoch, FirstStep, Task, auto_precision, device, synchronize

from finegrain.core import process


def ours(task: Task, after_step: FirstStep) -> Epoch:
    """An epoch as stage train runs it, on the packed arrays."""
    return our_epochs(job(task.model), after_step)


def ceiling(task: Task, after_step: FirstStep) -> Epoch:
    """Our model and step on one fixed batch: an upper bound for any loader."""
    return ceiling_epochs(job(task.model), after_step)


def job(model: str) -> Any:
    """A ``PhaseContext`` as stage train sets it up in the current folder."""
    from finegrain.core import allocator

    allocator.keep_freed_memory()  # before torch is imported
    from finegrain.config import params
    from finegrain.core import paths
    from finegrain.runtime import devices

    config = params.load_params()
    pack = paths.Dataset(config.dataset.name).pack
    return our_job(config, our_split(config, pack, devices.select_device(config.device)), model)


def our_split(config: Any, pack: Path, on: Any) -> Any:
    from finegrain.loading import batches

    mean_std = batches.normalization_mean_std(pack, config.normalization, None)
    return batches.PackedSplit(pack, "train", on, *mean_std)


def our_job(config: Any, train: Any, name: str) -> Any:
    """Context of the training steps of the recipe's first phase."""
    from finegrain.models import build
    from finegrain.runtime import devices
    from finegrain.training.train_step import PhaseContext, TrainingSetup

    net = build.build_model(name, len(train.class_names), "none", config.head, 0).to(train.device)
    dtype = devices.autocast_dtype(config.precision, train.device)
    return PhaseContext(TrainingSetup(net, config, 0, train, dtype), next(iter(config.phases)))


def our_epochs(context: Any, after_step: FirstStep) -> Epoch:
    from finegrain.models import layer_groups
    from finegrain.training import history, loop

    setup, phase = context.setup, context.phase
    layer_groups.set_trainable(setup.net, phase.trainable)
    optimizer = context.build_optimizer(setup.config.lr)
    optimizer.register_step_post_hook(after_step)

    def epoch(number: int) -> int:
        totals = history.EpochTotals.zero(setup.train.device)
        for _ in loop.train_steps(context, optimizer, number, (number - 1) % phase.epochs, totals):
            pass
        totals.loss.item()  # waits for the device, as at the end of an epoch
        return totals.images

    return epoch


def ceiling_epochs(context: Any, after_step: FirstStep) -> Epoch:
    from finegrain.models import layer_groups
    from finegrain.training.train_step import train_step

    setup, phase = context.setup, context.phase
    images, labels = next(context.batches("ceiling", phase.image_size_at(0)))
    layer_groups.set_trainable(setup.net, phase.trainable)
    context.set_train_mode()
    optimizer = context.build_optimizer(setup.config.lr)
    optimizer.register_step_post_hook(after_step)

    def epoch(number: int) -> int:
        for _ in range(context.steps_per_epoch):
            train_step(context, optimizer, images, labels)
        return context.steps_per_epoch * len(labels)

    return epoch


@dataclass(frozen=True)
class Way:
    start: Callable[[Task, FirstStep], Epoch]
    label: str
    """Name in the table."""
    package: str | None = None
    """Package that must be installed in addition to the project's own."""
    batch_size: int | None = None
    """Batch size, if the way sets it."""
    mixed: Literal["fp32", "bf16", "fp16", "auto"] = "bf16"
    """Autocast: bf16 if the hardware multiplies it natively, fp16 on a GPU, none (fp32), or as ours does."""

    @property
    def precision(self) -> str:
        """Precision on this machine."""
        auto = auto_precision(device())
        native = {"fp32": False, "bf16": auto == "bf16", "fp16": device().type == "cuda", "auto": False}
        return auto if self.mixed == "auto" else self.mixed if native[self.mixed] else "fp32"


WAYS = {
    "tutorial": Way(
        throughput_others.tutorial, "reference project: Pillow, v1 transforms", batch_size=4, mixed="fp32"
    ),
    "tutorial-large": Way(throughput_others.tutorial, "the same, larger batches", mixed="fp32"),
    "torchvision": Way(throughput_others.torchvision_v2, "plain torchvision at its best: v2 on uint8"),
    "timm": Way(throughput_others.timm_loader, "timm's loader and augmentation, the same step", "timm"),
    "timm-script": Way(throughput_others.timm_script, "timm as its script sets it up", "timm", mixed="fp32"),
    "fastai": Way(throughput_others.fastai_learner, "fastai's Learner", "fastai", mixed="fp16"),
    "ours": Way(ours, "ours", mixed="auto"),
    "ceiling": Way(ceiling, "ceiling: our step on one fixed batch", mixed="auto"),
}


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument(
        "--photos", type=Path, required=True, help="folder with JPEGs in train/<class>/ and val/<class>/"
    )
    parser.add_argument("--model", required=True, help="network, by torchvision's name")
    parser.add_argument("--image-size", type=int, required=True, help="in pixels")
    parser.add_argument("--batch-size", type=int, required=True, help="images in a batch")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="worker processes of the loader")
    parser.add_argument("--spawned", type=float, default=time.monotonic(), help=argparse.SUPPRESS)
    args = parser.parse_args()
    task = Task(args.photos, args.model, args.image_size, args.batch_size, args.workers)
    first = FirstStep(args.spawned)
    with contextlib.redirect_stdout(sys.stderr):  # libraries may print to stdout
        epoch = WAYS[args.way].start(task, first)
        epoch(1)
        synchronize()
        started = time.perf_counter()
        images = epoch(2)
        synchronize()
        seconds = time.perf_counter() - started
    facts = {"device": device().type, "precision": WAYS[args.way].precision}
    took = {"startup_seconds": first.seconds, "images": images, "epoch_seconds": seconds}
    print(json.dumps(facts | took))


if __name__ == "__main__":
    process.run_main(main)
