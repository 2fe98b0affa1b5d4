"""Roofline of a training step: operations and bytes, counted, and the GPU's measured rate for each."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from finegrain.models import layer_groups
from finegrain.training.cuda_graph import GraphedFunction
from finegrain.training.train_step import train_step

SHOWN = 8
"""Number of kernels shown in a profile."""


class Bytes(TorchDispatchMode):
    """Lower bound of the bytes that operators read and write: every input once, every output once.

    Each operator is counted separately, so the bound holds for this sequence of operators, not if some are
    fused.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        declared = func._schema.arguments
        named = [
            *zip(declared, args, strict=False),
            *((a, kwargs[a.name]) for a in declared if a.name in kwargs),
        ]
        read = _tensors([value for a, value in named if not a.is_out])
        changed = _tensors([value for a, value in named if a.alias_info and a.alias_info.is_write])
        known = {_place(tensor) for tensor in [*read, *changed]}
        made = [tensor for tensor in _tensors(outputs) if _place(tensor) not in known]
        if (made or changed) and not func.__name__.startswith("empty"):  # the others return views
            self.total += sum(map(_bytes, [*read, *made, *changed]))
        return outputs


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # on the device "meta" there is no data pointer


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def count(job: Any) -> dict[str, float]:
    """Floating-point operations (two for each multiply-add) and bytes of one training step, per image."""
    vars(job)["graphed"] = GraphedFunction(job.setup.net, None, job.batch_size)
    images, labels = next(job.batches("count", job.phase.image_size_at(0)))
    layer_groups.set_trainable(job.setup.net, job.phase.trainable)
    job.set_train_mode()
    optimizer = job.build_optimizer(job.setup.config.lr)
    train_step(job, optimizer, images, labels)  # creates the optimizer's state
    with Bytes() as moved:
        train_step(job, optimizer, images, labels)
    with FlopCounterMode(display=False) as done:
        train_step(job, optimizer, images, labels)
    return {"flop": done.get_total_flops() / len(labels), "bytes": moved.total / len(labels)}


def chip(device: torch.device) -> dict[str, float]:
    """Bytes per second of a large copy (read + write), and bfloat16 operations per second of a matmul."""
    large = device.type == "cuda"
    source = torch.rand(2**28 if large else 2**22, device=device)
    target = torch.empty_like(source)
    side = 8192 if large else 256
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return {
        "bytes_per_second": 2 * _bytes(source) / _seconds(lambda: target.copy_(source), device),
        "flop_per_second": 2 * side**3 / _seconds(lambda: a @ b, device),
    }


def _seconds(work: Callable[[], Any], device: torch.device, times: int = 20) -> float:
    """Mean seconds of one call, after three warm-up calls."""
    for number in range(3 + times):
        if number == 3:
            _wait(device)
            started = time.perf_counter()
        work()
    _wait(device)
    return (time.perf_counter() - started) / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profile(epoch: Callable[[int], int], device: torch.device) -> dict[str, Any]:
    """Profile of an epoch: the share of its time in which the device computes, and its longest kernels.

    On a CPU it lists operators instead of kernels.
    """
    activity = torch.profiler.ProfilerActivity
    kind = activity.CUDA if device.type == "cuda" else activity.CPU
    name = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    epoch(1)
    _wait(device)
    with torch.profiler.profile(activities=[kind]) as found:
        started = time.perf_counter()
        epoch(2)
        _wait(device)
        wall = time.perf_counter() - started
    rows = sorted(found.key_averages(), key=lambda row: -getattr(row, name))
    seconds = {row.key: getattr(row, name) / 1e6 for row in rows}
    longest = [[key[:90], each / wall] for key, each in list(seconds.items())[:SHOWN]]
    return {"busy": sum(seconds.values()) / wall, "longest": longest}
