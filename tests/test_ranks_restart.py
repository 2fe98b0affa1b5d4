"""Two processes that train together: if one is killed, both stop, and the next run continues."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import fork_server
import numpy as np
import psutil
import pytest
import torch
from params_file import write_params
from safetensors.torch import load_file
from two_processes import COMMAND, ENVIRONMENT, RUN, TINY, free_port, history, run_two

import train
from finegrain.core.errors import UserError
from finegrain.runtime.distributed import join_world


def wait_for(condition: Any, seconds: float = 60) -> Any:
    for _ in range(int(seconds / 0.05)):
        if found := condition():
            return found
        time.sleep(0.05)
    pytest.fail("it did not come")


ON_ONE = ["--standalone", "--nproc-per-node", "2"]


ON_TWO = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "x"]


Running = subprocess.Popen[bytes]


@contextlib.contextmanager
def started(
    folder: Path, *commands: list[str], **environment: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run the commands side by side, with one log for all; none of their processes outlives the test."""
    with (folder / "log").open("a") as log:
        running = [
            subprocess.Popen(command, cwd=folder, env=ENVIRONMENT | environment, stdout=log, stderr=log)
            for command in commands
        ]
    below: list[psutil.Process] = []
    try:
        wait_for(lambda: "epoch 2: train loss" in (folder / "log").read_text())
        below = [child for one in running for child in psutil.Process(one.pid).children(recursive=True)]
        yield running
    finally:
        for process in [*running, *below]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def trainers(*of: Running | BaseProcess) -> list[psutil.Process]:
    children = [child for one in of for child in psutil.Process(one.pid).children()]
    return [child for child in children if "train.py" in " ".join(child.cmdline())]


def gone(workers: list[psutil.Process]) -> bool:
    return not any(worker.is_running() and worker.status() != "zombie" for worker in workers)


def head_only(**more: Any) -> dict[str, Any]:
    """Without norm layers that follow a batch, two processes compute what one does, except for rounding."""
    phase = {**TINY["phases"]["all"], "trainable": "head", "norm_statistics": "frozen", **more}
    return {**TINY, "phases": {"all": phase}}


def six_epochs(folder: Path, devices: int, **changes: Any) -> None:
    recipe = {**TINY, **changes}
    phase = {**recipe["phases"]["all"], "epochs": 6}
    write_params(folder, **recipe | {"phases": {"all": phase}}, devices=devices, checkpoint_seconds=0.0)


@pytest.mark.long
def test_two_processes_compute_what_one_does_though_one_was_killed(project, tiny_pack):
    """Losses and weights within 1e-4: sums of float32 in another order. All end with the killed process.

    Some labels are wrong, so that the classes, which are weighted, are not of the same size. The two take
    their halves of each batch in three parts.
    """
    labels = np.load(tiny_pack / "train_labels.npy")
    labels[2::6] = 0
    np.save(tiny_pack / "train_labels.npy", labels)
    weighted = {"class_weights": "balanced", "choose_by": "macro_f1"}
    six_epochs(project, devices=1, **head_only() | weighted)
    train.main(COMMAND[2:])
    rows, weights = history(project), load_file(project / f"models/tiny/{RUN}.safetensors")
    for made in ("plots", "models"):
        shutil.rmtree(project / made)

    six_epochs(project, devices=2, **head_only(accumulate=3) | weighted)
    log = project / "log"
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "of-a-cluster"}
    launcher = fork_server.start("train", COMMAND[2:], project, log, environment)
    try:
        wait_for(lambda: log.exists() and "epoch 2: train loss" in log.read_text())
        workers = trainers(launcher)
        assert len(workers) == 2
        workers[1].send_signal(signal.SIGKILL)
        launcher.join(60)
        assert launcher.exitcode == 1 and gone(workers)
    finally:
        launcher.terminate()
    assert log.read_text().splitlines()[-1].startswith("error: process 1 of 2 was killed by signal 9")
    assert "Traceback" not in log.read_text()

    log.unlink()
    run_two(project)
    assert log.read_text().count("resumed after epoch") == 1
    assert log.read_text().count("epoch 6: train loss") == 1  # only the main process reports
    again, same = history(project), load_file(project / f"models/tiny/{RUN}.safetensors")
    assert again["epoch"].tolist() == list(range(1, 7))
    np.testing.assert_allclose(again.select_dtypes("number"), rows.select_dtypes("number"), rtol=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(same[name], value, rtol=1e-4, atol=1e-5)
    sidecar = json.loads((project / f"models/tiny/{RUN}.json").read_text())
    assert sidecar["environment"]["devices"] == 2
    cost = json.loads((project / f"models/tiny/{RUN}.cost.json").read_text())
    assert cost["images_per_second"] > 0


@pytest.mark.long
@pytest.mark.parametrize("machines", [1, 2])
def test_torchrun_s_restart_goes_on_by_itself(project, tiny_pack, machines):
    """Two agents of torchrun that meet by the network, as on two machines."""
    six_epochs(project, devices=1)
    where = ON_ONE if machines == 1 else [*ON_TWO, "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *where, "--max-restarts", "3", *COMMAND[1:]]
    own = {} if machines == 1 else {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with started(project, *[torchrun] * machines, **own) as running:
        workers = trainers(*running)
        assert len(workers) == 2
        workers[1].send_signal(signal.SIGKILL)
        assert [one.wait(90) for one in running] == [0] * machines, (project / "log").read_text()
        assert gone(workers)
    assert "resumed after epoch" in (project / "log").read_text()
    assert history(project)["epoch"].tolist() == list(range(1, 7))


def test_restarts_on_several_machines_need_a_store_of_their_own(project, monkeypatch):
    """Rejected before it waits for anything."""
    variables = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_MAX_RESTARTS": "3"}
    for name, value in {**variables, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UserError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"),
        join_world(torch.device("cpu")),
    ):
        pass
