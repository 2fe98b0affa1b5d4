"""Data-parallel training of one network in several processes.

torchrun, or ``launch``, starts the processes and numbers them by environment variables;
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
    """The processes that train one network together, and the rank of this one; by default the only one."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        """Whether this process trains alone."""
        return self.size == 1

    @property
    def rng_key(self) -> tuple[int, ...]:
        """Suffix of a random seed by which each process draws its own numbers; empty for a single process."""
        return () if self.is_single else (self.rank,)

    def shard(self, values: Any) -> Any:
        """Rows of a batch ``[N, ...]`` that this process trains on; N is a multiple of the world's size."""
        return values[self.rank :: self.size]

    def shard_slice(self, n: int) -> slice:
        """Consecutive items, of n, of this process; the slices of all processes cover each item once."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def wrap(self, net: nn.Module) -> nn.Module:
        """Wrap the network so that backward passes average its gradients over all processes."""
        if self.is_single:
            return net
        device_ids = [self.device] if self.device.type == "cuda" else None
        gc.collect()  # frees an earlier phase's wrapper of this network, with its hooks
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the replacement is not in torch 2.11
            # each process updates its own statistics of norm layers, until ``average_buffers``
            return DistributedDataParallel(
                net, device_ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def synchronize_gradients(
        self, net: nn.Module, synchronize: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Whether a pass through a wrapped network, inside this context, averages its gradients.

        Those of passes that do not are added to the next one's, and averaged with them.
        """
        if isinstance(net, DistributedDataParallel) and not synchronize:
            return net.no_sync()
        return contextlib.nullcontext()

    def all_reduce(self, *values: Tensor) -> None:
        """Replace each tensor by its sum over all processes."""
        if not self.is_single:
            for value in values:
                dist.all_reduce(value)

    def broadcast(self, value: Any) -> Any:
        """Value of the main process, in every process."""
        if self.is_single:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def all_true(self, value: bool) -> bool:
        """Whether the value is true in every process."""
        if self.is_single:
            return value
        flag = torch.tensor(int(value), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MIN)
        return bool(flag.item())

    def gather(self, parts: list[Tensor]) -> Tensor:
        """Concatenate the rows ``[n, C]`` of every process, in the order of their ranks, on the CPU."""
        gathered: list[Any] = [parts]
        if not self.is_single:
            gathered *= self.size
            dist.all_gather_object(gathered, [part.cpu() for part in parts])
        return torch.cat([part for process in gathered for part in process]).cpu()

    def average_buffers(self, net: nn.Module) -> None:
        """Average over all processes the running statistics of norm layers.

        Each process updates them by its own images. They are running means, so that at any step the mean
        over the processes is the running mean over all images.
        """
        if not self.is_single:
            for value in net.buffers():
                if value.is_floating_point():
                    dist.all_reduce(value)
                    value /= self.size


SINGLE_PROCESS = World()


def is_launched() -> bool:
    """Whether torchrun has started this process, even if as the only one."""
    return "WORLD_SIZE" in os.environ


def _rendezvous_store() -> dist.Store:
    """Key-value store by which the processes find each other, without the addresses of ended processes.

    torchrun keeps one store across restarts, with the addresses of processes that have ended
    (https://github.com/pytorch/pytorch/issues/135712). On one machine the restart count, as a prefix of
    the keys, separates them; several machines may count differently.

    Raises:
        UserError: torchrun may restart on several machines, and would keep its store.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return next(dist.rendezvous("env://"))[0]
    several = os.environ["LOCAL_WORLD_SIZE"] != os.environ["WORLD_SIZE"]
    if several and os.environ["TORCHELASTIC_MAX_RESTARTS"] != "0":
        raise UserError(
            "torchrun: --max-restarts on several machines: restarted processes would try to reach those that "
            "have ended; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of each machine"
        )
    store, _, _ = next(dist.rendezvous("env://"))
    return store if several else dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def require_gpus(devices: int, device: torch.device) -> None:
    """Check that each process gets a GPU of its own; on the CPU any number may run.

    Raises:
        UserError: this machine has fewer GPUs.
    """
    gpus = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, devices)
    if gpus < devices:
        raise UserError(
            f"params.yaml: devices: {devices}: more than this machine's GPUs ({gpus}); use {gpus} or less"
        )


@contextlib.contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Connect to the other processes that torchrun has started; without torchrun, a world of one.

    Args:
        device: ``cuda`` becomes the GPU of this process.

    Raises:
        UserError: the connection to another process is lost.
    """
    if not is_launched() or os.environ["WORLD_SIZE"] == "1":
        yield World(device=device)
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if device.type == "mps":
        require_gpus(size, device)
    if device.type == "cuda":
        local_rank = int(os.environ["LOCAL_RANK"])
        require_gpus(int(os.environ.get("LOCAL_WORLD_SIZE", local_rank + 1)), device)
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=_rendezvous_store(),
            rank=rank,
            world_size=size,
        )
        yield World(rank, size, device)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        reason = str(error).splitlines()[0]
        raise UserError(
            f"no connection to another process of this run ({reason}); `dvc repro` continues it"
        ) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def launch(devices: int, script: str, argv: Sequence[str]) -> None:
    """Run a script in several processes on this machine, one per device, and wait for all of them.

    Raises:
        UserError: a process failed; the others have been stopped.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # reported below
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.pop(name, None)  # of a cluster; all processes are on this machine
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=devices, max_restarts=0, rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0", run_id=str(os.getpid()), monitor_interval=0.1,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)(script, *argv)
    except SignalException as signalled:  # all processes have been stopped
        if signalled.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        sys.exit(128 + signalled.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit status {code}"
        raise UserError(
            f"process {rank} of {devices} {how}; the others were stopped; `dvc repro` continues the run"
        ) from None
