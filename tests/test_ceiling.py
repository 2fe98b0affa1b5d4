"""The ceiling is the speed of the same step on one fixed batch."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from test_loop import TWO_PHASES, settings, split

from finegrain import ceiling, loop, model
from finegrain.ranks import ALONE


def test_a_run_half_as_fast_as_its_ceiling_has_the_fraction_one_half(tiny_pack, tmp_path, monkeypatch):
    config = settings(tmp_path)
    net = model.build("resnet18", 3, "none", config.head, 0)
    job = loop.Job(net, config, 0, "warm", split(tiny_pack, "train"), False)
    rows = [
        {"phase": name, "side_pixels": 32, "train_images": 100, "train_seconds": 2.0, "seconds": 3.0}
        for name in ("warm", "all", "all", "all")
    ]
    rows[0]["train_seconds"] = 1e9  # of another phase: not counted
    asked = []

    def known(job: loop.Job, side: int, lr: float, seconds: float) -> float:
        asked.append((job.name, side, lr, seconds))
        return 100.0

    monkeypatch.setattr(ceiling, "images_per_second", known)
    assert ceiling.fraction(job, rows, 0.01) == 0.5
    assert asked == [("all", 32, 0.01, 1.0)]


def test_a_job_goes_at_once_with_its_passes(tmp_path):
    """Python's collector knows nothing of a GPU's memory, which holds a recorded step until then."""
    train = SimpleNamespace(device=torch.device("cuda"), ranks=ALONE, steps=lambda size: 1000)
    job = loop.Job(torch.nn.Linear(2, 2), settings(tmp_path), 0, "all", train, False)  # type: ignore[arg-type]
    assert job.passes._planned is not None and job.passes._planned(32) > 0
    gone = weakref.ref(job.passes)
    gc.disable()
    try:
        del job
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("phase", TWO_PHASES)
def test_the_same_batch_is_fed_for_about_the_time_given(tiny_pack, tmp_path, monkeypatch, phase):
    config = settings(tmp_path)
    net = model.build("resnet18", 3, "none", config.head, 0)
    job = loop.Job(net, config, 0, phase, split(tiny_pack, "train"), False)
    fed, clock = [], [0.0]
    real = loop.take_step

    def counted(*args):
        fed.append(args[2])
        clock[0] += 0.125  # a step takes an eighth of a second of this clock
        return real(*args)

    monkeypatch.setattr(loop, "take_step", counted)
    monkeypatch.setattr(ceiling.time, "perf_counter", lambda: clock[0])
    assert ceiling.images_per_second(job, 32, 0.001, seconds=1.0) == pytest.approx(6 / 0.125)
    assert len(fed) == 2 + 8
    assert all(images is fed[0] for images in fed)
    open_ = {name for name, p in net.named_parameters() if p.requires_grad}
    assert ("conv1.weight" in open_) == (phase == "all")
    assert torch.is_tensor(fed[0]) and fed[0].shape == (6, 3, 32, 32)
