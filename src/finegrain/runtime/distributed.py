"""Several processes that train one network together, on torch's own engine.

torchrun, or ``launch``, starts them and tells each by its environment which one it is;
DistributedDataParallel averages the gradients (Li et al. 2020, https://arxiv.org/abs/2006.15704).
"""

import contextlib
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from finegrain.core.errors import UserError


@dataclass(frozen=True)
class World:
    """The processes that train one network together, seen from this one; by default it is the only one."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        return self.size == 1

    @property
    def rng_key(self) -> tuple[int, ...]:
        """Part of a random key by which each process draws numbers of its own; empty in a single process."""
        return () if self.is_single else (self.rank,)

    def shard(self, values: Any) -> Any:
        """This process's part of a batch's tensor ``[N, ...]``, N a multiple of the world's size."""
        return values[self.rank :: self.size]

    def shard_slice(self, n: int) -> slice:
        """This process's consecutive part of n items; the slices of all processes cover them once."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def wrap(self, net: nn.Module) -> nn.Module:
        """The network, averaging its gradients over all processes after every backward pass."""
        if self.is_single:
            return net
        device_ids = [self.device] if self.device.type == "cuda" else None
        gc.collect()  # an earlier wrap of this network, for another phase, goes with its hooks
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.11 does not know the new name
            # statistics of norm layers are each process's own until ``average_buffers``
            return DistributedDataParallel(
                net, device_ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def all_reduce(self, *values: Tensor) -> None:
        """Replace each tensor by its sum over all processes."""
        if not self.is_single:
            for value in values:
                dist.all_reduce(value)

    def broadcast(self, value: Any) -> Any:
        """The main process's value, in every process."""
        if self.is_single:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def all_true(self, here: bool) -> bool:
        """Whether it is true in every process."""
        if self.is_single:
            return here
        flag = torch.tensor(int(here), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MIN)
        return bool(flag.item())

    def gather(self, parts: list[Tensor]) -> Tensor:
        """Concatenate the rows ``[n, C]`` of every process, in the order of world, on the CPU."""
        gathered: list[Any] = [parts]
        if not self.is_single:
            gathered *= self.size
            dist.all_gather_object(gathered, [part.cpu() for part in parts])
        return torch.cat([part for each in gathered for part in each]).cpu()

    def average_buffers(self, net: nn.Module) -> None:
        """Average the running statistics of norm layers, of which each process has followed its own images.

        They are running means, so that their mean over processes is that of all images, at any step.
        """
        if not self.is_single:
            for value in net.buffers():
                if value.is_floating_point():
                    dist.all_reduce(value)
                    value /= self.size


SINGLE_PROCESS = World()


def is_launched() -> bool:
    """Whether torchrun has started this process, if only as one of one."""
    return "WORLD_SIZE" in os.environ


def _rendezvous_store() -> dist.Store:
    """Where the processes find each other's addresses, and none of those that ended before a restart.

    torchrun keeps one store over its restarts, and in it the addresses of the dead
    (https://github.com/pytorch/pytorch/issues/135712). On one machine the number of the start tells them
    apart; several machines may count differently.

    Raises:
        UserError: torchrun may restart on several machines, and keeps its store.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return next(dist.rendezvous("env://"))[0]
    several = os.environ["LOCAL_WORLD_SIZE"] != os.environ["WORLD_SIZE"]
    if several and os.environ["TORCHELASTIC_MAX_RESTARTS"] != "0":
        raise UserError(
            "torchrun: --max-restarts on several machines needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the "
            "environment of each; else restarted processes look for those that have ended"
        )
    store, _, _ = next(dist.rendezvous("env://"))
    return store if several else dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def require_gpus(devices: int, on: torch.device) -> None:
    """Each process needs a GPU of its own.

    Raises:
        UserError: this machine has fewer.
    """
    have = torch.cuda.device_count() if on.type == "cuda" else devices
    if have < devices:
        raise UserError(f"params.yaml: devices: {devices}: this machine has {have} GPUs; lower it")


@contextlib.contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Meet the other processes that torchrun has started; alone where it has not.

    Args:
        device: cuda stands for this process's own GPU.

    Raises:
        UserError: another process is gone.
    """
    if not is_launched() or os.environ["WORLD_SIZE"] == "1":
        yield World(device=device)
        return
    index, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if device.type == "cuda":
        here = int(os.environ["LOCAL_RANK"])
        require_gpus(int(os.environ.get("LOCAL_WORLD_SIZE", here + 1)), device)
        device = torch.device("cuda", here)
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=_rendezvous_store(),
            rank=index,
            world_size=count,
        )
        yield World(index, count, device)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        raise UserError("the connection to another process of this training was lost") from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def launch(devices: int, script: str, argv: Sequence[str]) -> None:
    """Run the script in so many processes on this machine, until all have ended well.

    Raises:
        UserError: one ended otherwise; the others have been ended too.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its news is ours below
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=devices, max_restarts=0, rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0", run_id=str(os.getpid()), monitor_interval=0.1,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)(script, *argv)
    except SignalException as signalled:  # the others have been ended
        if signalled.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        sys.exit(128 + signalled.sigval)
    except ChildFailedError as error:
        index, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
        raise UserError(
            f"process {index} of {devices} {how}; the others were ended too; `dvc repro` goes on from here"
        ) from None
