"""The machine: device, precision, deterministic operations, peak memory."""

import fcntl
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from finegrain.core import log
from finegrain.core.errors import UserError


def select_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to compute on.

    Raises:
        UserError: cuda is asked for and torch finds none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("params.yaml: device: cuda is asked for, but torch finds no GPU; use auto or cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def use_bf16(wanted: Literal["auto", "fp32", "bf16"], on: torch.device) -> bool:
    """Whether to autocast to bfloat16: ``auto`` where the hardware multiplies it natively."""
    if wanted != "auto":
        return wanted == "bf16"
    if on.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(native())


@contextmanager
def exclusive_cores(on: torch.device) -> Iterator[None]:
    """Wait until nobody else of this user trains or evaluates on all cores of this machine.

    Two networks that each compute with as many threads as there are cores wait for each other at every
    barrier: together they were 20 times slower than one (benchmarks/side_by_side.py). Threads for no more
    than half of the cores, by OMP_NUM_THREADS, run side by side without waiting.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if on.type != "cpu" or torch.get_num_threads() <= max(1, there // 2):
        yield
        return
    file = Path(tempfile.gettempdir()) / f"finegrain-cores-{os.getuid()}.lock"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            each = max(1, there // 2)
            log.info(
                "another training uses all cores of this machine: this one waits for it; with "
                f"OMP_NUM_THREADS={each} for each, two run side by side"
            )
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def copy_to_device(values: torch.Tensor, to: torch.device) -> torch.Tensor:
    """Copy a small tensor from the host without waiting for it: one from pageable memory would wait."""
    # a share of several processes' batch is not contiguous, and copying it would make a pageable one first
    return values.contiguous().pin_memory().to(to, non_blocking=True) if to.type == "cuda" else values


def set_deterministic(wanted: bool) -> None:
    """Refuse every operation whose bits differ from run to run on the same GPU; slower.

    On the CPU the same number of threads gives the same bits anyway.
    """
    if wanted:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when the first GPU operation runs
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def explain_errors(asked: str, cure: str) -> Iterator[None]:
    """Turn torch's errors on memory and determinism into messages.

    Args:
        asked: the parameter and what it asks the memory to hold.
        cure: for too little of it.

    Raises:
        UserError: out of the memory of the GPU or the machine; no deterministic implementation.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = str(error)
        if isinstance(error, torch.OutOfMemoryError):
            raise UserError(f"params.yaml: {asked} do not fit the GPU's memory; {cure}") from None
        if isinstance(error, MemoryError) or "can't allocate memory" in said:
            raise UserError(f"params.yaml: {asked} do not fit this machine's memory; {cure}") from None
        if "deterministic implementation" in said or "CuBLAS and it is not deterministic" in said:
            raise UserError(f"params.yaml: deterministic: {said.split('. ')[0]}; set it to false") from None
        raise


def peak_memory_bytes(on: torch.device) -> int:
    """Largest memory so far: of the GPU's tensors, or of this process (resident) on the CPU."""
    if on.type == "cuda":
        return torch.cuda.max_memory_allocated(on)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
