"""Trainings of a tiny pack by two processes on the CPU, as torchrun starts them."""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fork_server
import pandas as pd
from params_file import PHASE
from pipeline import ROOT

RUN = "resnet18-0"
TINY: dict[str, Any] = {
    "dataset__name": "tiny",
    "pack__image_size": 32,
    "models": ["resnet18"],
    "batch_size": 12,
    "precision": "fp32",
    "phases": {"all": PHASE | {"epochs": 3}},
}
COMMAND = [sys.executable, str(ROOT / "src" / "train.py"), "--model", "resnet18", "--seed", "0"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}


def run_two(folder: Path, script: Path | str = "train", words: Sequence[str] = COMMAND[2:]) -> None:
    """Run the two processes of a training, as torchrun starts them."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    each = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    processes = [
        fork_server.start(script, words, folder, folder / "log", environment) for environment in each
    ]
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0], (folder / "log").read_text()


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / f"plots/tiny/history/{RUN}.csv")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
