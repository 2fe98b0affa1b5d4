"""Run code with Python and a few packages, without this project."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

DECODING = ("numpy", "PIL")
"""What a copy of decoding.py needs."""
ONNX = (*DECODING, "onnxruntime", "flatbuffers", "google", "packaging", "sympy", "mpmath", "coloredlogs")
"""What `pip install onnxruntime numpy pillow` installs."""
_LIBRARIES = {"numpy": "numpy.libs", "PIL": "pillow.libs", "onnxruntime": "onnxruntime.libs"}


def run(folder: Path, code: str, packages: Sequence[str] = ONNX) -> str:
    """Run code in a folder with the standard library, the folder's modules and links to these packages.

    Returns:
        What it prints.
    """
    site, links = Path(np.__file__).parents[1], folder.parent / "-".join(["bare", *packages[-2:]])
    links.mkdir(exist_ok=True)
    for name in (*packages, *(_LIBRARIES[name] for name in packages if name in _LIBRARIES)):
        if (site / name).exists() and not (links / name).exists():
            (links / name).symlink_to(site / name)
    path = f"import sys; sys.path = [p for p in sys.path if 'site-' not in p] + [{str(links)!r}, '.']\n"
    command = [sys.executable, "-I", "-c", path + code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
