"""The machine: allocator, device, precision, peak memory. Import this before anything that imports torch."""

import ctypes
import fcntl
import importlib
import mmap
import os
import platform
import resource
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from finegrain import record
from finegrain.errors import UserError

HUGE_PAGE = 2**21


def _keep_memory() -> None:
    """Let glibc keep what it has, in huge pages, instead of returning large blocks after every operation.

    Each activation of a training step would otherwise be mapped, zeroed page by page and unmapped again.
    It must be called before torch allocates. Reserving addresses takes no memory.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_max, never = -1, -4, -1
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, never)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    reserved = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if block := libc.malloc(reserved):
        start = -(-block // HUGE_PAGE) * HUGE_PAGE
        libc.madvise(start, block + reserved - start, mmap.MADV_HUGEPAGE)  # refused: ordinary pages
        libc.free(block)  # becomes the top of the heap, from which all later blocks are cut


_keep_memory()
import torch  # noqa: E402


def _import_torchvision() -> None:
    """Import torchvision without torch's compiler, which would take as long as all the rest.

    torchvision asks it one question, in an operator for detection (``roi_align``): whether to compile it. A
    stand-in says no, and makes way for the real one. A torchvision that asks for more gets that at once.
    """
    if "torch._dynamo" not in sys.modules:
        stand_ins = {name: types.ModuleType(name) for name in ("torch._dynamo", "torch._dynamo.utils")}
        vars(stand_ins["torch._dynamo.utils"])["is_compile_supported"] = lambda device_type: False
        sys.modules.update(stand_ins)
        try:
            importlib.import_module("torchvision")
        except (ImportError, AttributeError):
            pass
        finally:
            for name in stand_ins:
                sys.modules.pop(name, None)


_import_torchvision()
import torchvision  # noqa: E402


def device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to compute on.

    Raises:
        UserError: cuda is asked for and torch finds none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("params.yaml: device: cuda is asked for, but torch finds no GPU; use auto or cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def bf16(wanted: Literal["auto", "fp32", "bf16"], on: torch.device) -> bool:
    """Whether to autocast to bfloat16: ``auto`` where the hardware multiplies it natively."""
    if wanted != "auto":
        return wanted == "bf16"
    if on.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(native())


@contextmanager
def cores(on: torch.device) -> Iterator[None]:
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
            record.say(
                "another training uses all cores of this machine: this one waits for it; with "
                f"OMP_NUM_THREADS={each} for each, two run side by side"
            )
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def upload(values: torch.Tensor, to: torch.device) -> torch.Tensor:
    """Copy a small tensor from the host without waiting for it: one from pageable memory would wait."""
    # a share of several processes' batch is not contiguous, and copying it would make a pageable one first
    return values.contiguous().pin_memory().to(to, non_blocking=True) if to.type == "cuda" else values


def be_deterministic(wanted: bool) -> None:
    """Refuse every operation whose bits differ from run to run on the same GPU; slower.

    On the CPU the same number of threads gives the same bits anyway.
    """
    if wanted:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when the first GPU operation runs
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def explained(asked: str, cure: str) -> Iterator[None]:
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


def environment(on: torch.device, precision_bf16: bool) -> dict[str, str | int]:
    """What the bits of a result depend on besides commit and data."""
    name = torch.cuda.get_device_name(on) if on.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": on.type,
        "device_name": name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "precision": "bf16" if precision_bf16 else "fp32",
    }
