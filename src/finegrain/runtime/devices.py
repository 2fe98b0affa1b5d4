"""Device, precision, deterministic operations, memory, and turns on the cores of a machine."""

import fcntl
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from finegrain.core import log
from finegrain.core.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Placed = TypeVar("Placed", Tensor, nn.Module)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What each precision autocasts to; float32 means no autocast."""


def select_device(name: DeviceName, key: str = "params.yaml: device:") -> torch.device:
    """The device to compute on; ``auto`` prefers a CUDA GPU to the CPU.

    Args:
        key: where the name is from, for messages.

    Raises:
        UserError: torch finds no GPU for cuda, or no Apple GPU for mps.
    """
    has_apple_gpu = torch.backends.mps.is_available()
    if name == "mps":
        if not has_apple_gpu:
            raise UserError(f"{key} mps: torch finds no Apple GPU; use auto or cpu")
        return torch.device("mps")
    if name == "cpu" or torch.cuda.is_available():
        return torch.device("cpu" if name == "cpu" else "cuda")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if name == "cuda":
        fix = "use auto or cpu"
        if visible is not None:
            fix = f"CUDA_VISIBLE_DEVICES={visible!r} hides any there is: unset it, or {fix}"
        raise UserError(f"{key} cuda: torch finds no GPU; {fix}")
    if has_apple_gpu:
        log.info("computing on the CPU; device: mps takes this machine's Apple GPU, which is untested")
    if visible is not None and Path("/dev/nvidiactl").exists():
        log.info(f"CUDA_VISIBLE_DEVICES={visible!r} hides the GPUs of this machine: computing on the CPU")
    return torch.device("cpu")


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Dtype that a network is autocast to on the device; float32 means no autocast.

    ``auto`` means bfloat16 where the hardware multiplies it natively, float16 on any other CUDA GPU, and
    float32 elsewhere; that choice is logged with its reason.
    """
    if precision == "auto":
        precision, reason = _native_precision(device)
        log.info(f"precision: {precision} ({reason})")
    return DTYPES[precision]


def _native_precision(device: torch.device) -> tuple[Precision, str]:
    """The fastest precision that the hardware supports natively, and why."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", f"{name} multiplies bfloat16 natively"
        return "fp16", f"{name} multiplies float16 natively, but not bfloat16"
    if device.type == "mps":
        return "fp32", "autocast is not tried on Apple GPUs unless it is requested"
    is_native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    if is_native():
        return "bf16", "this CPU multiplies bfloat16 natively"
    return "fp32", "this CPU does not multiply bfloat16 natively"


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast to the dtype that ``autocast_dtype`` has chosen; a context manager."""
    enabled = dtype != torch.float32
    return torch.autocast(device.type, dtype if enabled else None, enabled=enabled)


@contextmanager
def exclusive_cores(device: torch.device) -> Iterator[None]:
    """Hold the cores that this process may use; wait while another process of this user holds one of them.

    Two networks that each compute with one thread per core wait for each other at every barrier: together
    they were 20 times slower than one (benchmarks/side_by_side.py). Nothing is held for a GPU, or by
    processes whose OMP_NUM_THREADS is at most half the cores: these run side by side, as do processes
    that are pinned to different cores (``taskset``, a scheduler).
    """
    cores = _available_cores()
    half = max(1, len(cores) // 2)
    if device.type != "cpu" or torch.get_num_threads() <= half:
        yield
        return
    file = Path(tempfile.gettempdir()) / f"finegrain-cores-{os.getuid()}.lock"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        waits = False
        for core in cores:  # ascending, so that no two processes wait for each other
            try:  # byte N of the file stands for core N
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, core)
            except (BlockingIOError, PermissionError):
                if not waits:
                    log.info(
                        "waiting for another run that uses the same cores of this machine; "
                        f"set OMP_NUM_THREADS={half} for each to run two side by side"
                    )
                waits = True
                fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, core)
        yield
    finally:
        os.close(descriptor)


def _available_cores() -> list[int]:
    """Numbers of the cores that this process may use, ascending."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def copy_to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a small tensor from the host without waiting, by way of pinned memory."""
    # contiguous first: pinning a strided shard of a batch would first copy it to pageable memory
    return values.contiguous().pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def image_device(device: torch.device) -> torch.device:
    """Where images are prepared for a network on the device: there, but for an Apple GPU on the CPU.

    An Apple GPU has no float64, and not all operators of the augmentation.
    """
    return torch.device("cpu") if device.type == "mps" else device


def place(value: Placed, device: torch.device) -> Placed:
    """Move a network, or its input, to the device.

    For an Apple GPU in torch's default memory format: with channels_last, batch norm's backward pass fails
    there in some versions of torch (https://github.com/pytorch/pytorch/pull/188371).
    """
    if device.type == "mps":
        value = value.to(memory_format=torch.contiguous_format)
    return value.to(device)


def set_deterministic(deterministic: bool) -> None:
    """Let torch reject every operation whose result can differ between runs on the same GPU; slower.

    On the CPU the same number of threads gives the same result anyway.
    """
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when the first GPU operation runs
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def explain_errors(request: str, fix: str) -> Iterator[None]:
    """Turn torch's errors about memory, determinism and Apple GPUs into messages for the user.

    Args:
        request: the parameter and what it needs memory for, such as ``batch_size: 64 images of 224 px``.
        fix: what to do if memory is too small.

    Raises:
        UserError: the memory of the GPU or the machine is too small, or an operation has no deterministic
            implementation, or none for Apple GPUs.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        message = str(error)
        if isinstance(error, NotImplementedError) and "MPS" in message:
            fix = "set PYTORCH_ENABLE_MPS_FALLBACK=1 in the environment, or take device: cpu"
            raise UserError(f"params.yaml: device: mps: {message.split('. ')[0]}; {fix}") from None
        if isinstance(error, torch.OutOfMemoryError) or "MPS backend out of memory" in message:
            raise UserError(f"params.yaml: {request} do not fit the GPU's memory; {fix}") from None
        if isinstance(error, MemoryError) or "can't allocate memory" in message:
            raise UserError(f"params.yaml: {request} do not fit this machine's memory; {fix}") from None
        if "deterministic implementation" in message or "CuBLAS and it is not deterministic" in message:
            reason = message.split(". ")[0]
            raise UserError(f"params.yaml: deterministic: {reason}; set it to false") from None
        raise


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of the memory of tensors on a GPU, or of this process's resident memory on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
