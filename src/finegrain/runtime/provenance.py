"""What a result depends on besides its parameters: software, hardware and the git revision."""

import platform
import subprocess
from importlib.metadata import version

import torch


def git_revision() -> str | None:
    """The commit of the current folder, ``-dirty`` where src or params.yaml differ; None outside git."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "src", "params.yaml"], capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def environment(on: torch.device, precision_bf16: bool) -> dict[str, str | int]:
    """What the bits of a result depend on besides commit and data."""
    name = torch.cuda.get_device_name(on) if on.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "device": on.type,
        "device_name": name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "precision": "bf16" if precision_bf16 else "fp32",
    }
