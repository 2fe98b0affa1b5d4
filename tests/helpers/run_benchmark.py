"""Run a benchmark as a user does, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline import ROOT

BENCHMARKS = ROOT / "benchmarks"


def run_benchmark(folder: Path, *command: str) -> str:
    """Run the command in the folder; returns what it prints.

    OpenMP's threads are passive: a test must not compete for its cores with whatever else runs.
    """
    environment = {"PYTHONPATH": str(ROOT / "src"), "OMP_WAIT_POLICY": "passive", "PYTHON": sys.executable}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
