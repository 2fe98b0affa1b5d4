"""A short run of the tool that docs/RELIABILITY.md records a long one of."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_runs_killed_at_random_end_with_the_same_files():
    """Under `dvc repro`, killed three times within the seconds that its stages need."""
    command = [sys.executable, "chaos.py", "--kills", "3", "--seed", "4", "--ways", "repro"]
    command += ["--quick", "--longest", "8"]
    helpers = Path(__file__).with_name("helpers")
    done = subprocess.run(command, cwd=helpers, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| kills survived | 3 |" in done.stdout
    assert "| files that differ | 0 |" in done.stdout
