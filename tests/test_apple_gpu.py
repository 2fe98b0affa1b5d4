"""What an Apple GPU needs, on machines without one: checks, where images are prepared, no float64 on it.

torch's meta device stands for it where tensors have to be somewhere: they have no values there.
"""

import contextlib
from types import SimpleNamespace
from typing import Any

import narrow_resnet
import pytest
import torch
from params_file import PHASE, write_params
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finegrain.config import params
from finegrain.core.errors import UserError
from finegrain.loading import batches
from finegrain.models.pooling import CovariancePool
from finegrain.runtime import devices, distributed
from finegrain.runtime.distributed import SINGLE_PROCESS
from finegrain.training.history import EpochTotals
from finegrain.training.optim import MovingAverage
from finegrain.training.train_step import PhaseContext, TrainingSetup, train_step

MPS, CPU = torch.device("mps"), torch.device("cpu")


def test_it_is_selected_if_it_is_requested_and_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        UserError, match="params.yaml: device: mps: torch finds no Apple GPU; use auto or cpu"
    ):
        devices.select_device("mps")
    assert devices.select_device("auto") == CPU and not capsys.readouterr().err
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.select_device("mps") == MPS and devices.select_device("cpu") == CPU
    assert not capsys.readouterr().err
    assert devices.select_device("auto") == CPU
    assert "device: mps takes this machine's Apple GPU, which is untested" in capsys.readouterr().err
    assert devices.autocast_dtype("auto", MPS) == torch.float32


def test_it_trains_in_one_process():
    distributed.require_gpus(1, MPS)
    with pytest.raises(UserError, match=r"params.yaml: devices: 2: .*GPUs \(1\)"):
        distributed.require_gpus(2, MPS)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            NotImplementedError(
                "The operator 'aten::x' is not currently implemented for the MPS device. If you want ..."
            ),
            "params.yaml: device: mps: The operator 'aten::x' is not .*; set PYTORCH_ENABLE_MPS_FALLBACK=1",
        ),
        (
            RuntimeError("MPS backend out of memory (MPS allocated: 18.05 GB, ..."),
            "params.yaml: batch_size: 2 do not fit the GPU's memory; halve it",
        ),
    ],
)
def test_its_errors_name_the_fix(error, message):
    with pytest.raises(UserError, match=message), devices.explain_errors("batch_size: 2", "halve it"):
        raise error


def test_the_cpu_prepares_its_images(tiny_pack, monkeypatch):
    placed: list[torch.Tensor] = []

    def place(value: torch.Tensor, device: torch.device) -> torch.Tensor:
        assert device.type == "meta" and value.device == CPU
        placed.append(value)
        return value.to(device)

    monkeypatch.setattr(devices, "image_device", lambda device: CPU)
    monkeypatch.setattr(devices, "place", place)
    config = params.load_params(write_params(tiny_pack, augment__rotate_degrees=10.0)).augment
    arguments = ([0.2] * 3, [0.15] * 3)
    there = batches.PackedSplit(tiny_pack, "train", torch.device("meta"), *arguments)
    here = batches.PackedSplit(tiny_pack, "train", CPU, *arguments)
    found = list(there.train_batches(1, 8, 32, config, 0))
    monkeypatch.undo()
    assert all(images.is_meta and labels.is_meta for images, labels in found)
    expected = [images for images, _ in here.train_batches(1, 8, 32, config, 0)]
    assert all(torch.equal(ours, same) for ours, same in zip(placed, expected, strict=True))
    assert devices.image_device(MPS) == CPU and devices.image_device(torch.device("cuda", 1)).index == 1


class Watch(TorchDispatchMode):
    """Records every dtype of the tensors on a device without values."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        found = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
        self.dtypes |= {value.dtype for value in found if value.is_meta}
        return result


def test_a_step_puts_no_float64_on_the_device(tmp_path, monkeypatch):
    phase = PHASE | {"accumulate": 2, "clip_norm": 1.0}
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # meta has none
    config = params.load_params(write_params(tmp_path, phases={"all": phase}, batch_size=4))
    net = narrow_resnet.NarrowResNet()
    net.avgpool, net.fc = CovariancePool([128], 4), nn.Linear(512, 5)
    net.to("meta")
    train = SimpleNamespace(
        device=torch.device("meta"), world=SINGLE_PROCESS, class_names=list("abcde"),
        steps_per_epoch=lambda batch_size: 3,
    )  # fmt: skip
    setup = TrainingSetup(net, config, 0, train, torch.float32)  # type: ignore[arg-type]
    context = PhaseContext(setup, "all", MovingAverage(net, 0.9))
    optimizer = torch.optim.AdamW(net.parameters(), foreach=True)
    images = torch.empty(4, 3, 64, 64, device="meta")
    labels = torch.zeros(4, dtype=torch.int64, device="meta")
    totals = EpochTotals.zero(torch.device("meta"))
    with Watch() as watch:
        for _ in range(2):
            loss, logits = train_step(context, optimizer, images, labels)
            totals.add(loss, logits, labels)
    assert logits.is_meta and logits.shape == (4, 5) and net.fc.weight.grad.is_meta
    assert torch.float32 in watch.dtypes and torch.float64 not in watch.dtypes
