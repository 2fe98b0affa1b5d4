"""What a result depends on besides its parameters: software, hardware and the git revision."""

import platform
import subprocess
from importlib.metadata import version

import torch

from finegrain.runtime import devices


def git_revision() -> str | None:
    """Commit of the current folder, with ``-dirty`` if src or params.yaml were changed; None outside git."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "src", "params.yaml"], capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, str | int]:
    """Versions, hardware and precision: a result is the same bit for bit only where these are the same.

    Args:
        dtype: what the network is autocast to.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "device": device.type,
        "device_name": name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "precision": next(name for name, value in devices.DTYPES.items() if value == dtype),
    }
