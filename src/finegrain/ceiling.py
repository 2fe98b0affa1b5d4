"""How fast a training run's steps would be if its images cost nothing."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from finegrain import loop, model
from finegrain.progress import Row

SECONDS = 1.0
SHARE = 0.005
"""The measurement takes about so many seconds, or so much of the run if that is longer."""


def fraction(job: loop.Job, rows: Sequence[Row], lr: float) -> float:
    """Images per second of the run, over those of the same step fed one fixed batch.

    Counted over the epochs of the phase and image size that most epochs had. This trains the network further:
    measure last.

    Args:
        job: of any phase of the run.
        rows: the run's history.
        lr: a learning rate under which the steps behave.
    """
    (name, side), _ = Counter((row["phase"], row["side_pixels"]) for row in rows).most_common(1)[0]
    counted = [row for row in rows if (row["phase"], row["side_pixels"]) == (name, side)]
    seconds = sum(row["train_seconds"] for row in counted)
    budget = max(SECONDS, SHARE * sum(row["seconds"] for row in rows))
    job = replace(job, name=name)
    return sum(row["train_images"] for row in counted) / seconds / images_per_second(job, side, lr, budget)


def images_per_second(job: loop.Job, side: int, lr: float, seconds: float) -> float:
    """Of whole steps on one batch that stays where it is, for about so many seconds."""
    images, labels = next(job.batches("ceiling", side))
    model.set_part(job.net, job.phase.part)  # first: the optimizer takes what trains
    optimizer = job.optimizer(lr)
    model.train_mode(job.net, job.phase.part, job.phase.frozen_statistics)

    def run(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            loop.take_step(job, optimizer, images, labels)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return time.perf_counter() - started

    run(1)  # memory is taken, kernels are chosen
    ranks = job.train.ranks
    steps = ranks.same(min(max(2, round(seconds / run(1))), 1000))
    return steps * len(labels) * ranks.count / run(steps)
