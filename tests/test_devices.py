"""One process at a time uses all cores of a machine, or of its part of them; nondeterminism is an error."""

import os
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from fork_server import FORK_SERVER

from finegrain.core.errors import UserError
from finegrain.runtime import devices

CPU = torch.device("cpu")


def _hold(folder: Path, cores: list[int], connection: Connection) -> None:
    tempfile.tempdir = str(folder)
    os.sched_getaffinity = lambda _: set(cores)
    torch.set_num_threads(len(cores))
    with devices.exclusive_cores(CPU):
        connection.send("in")
        connection.recv()


@dataclass
class Holder:
    """Another process that holds cores, until it is released or killed."""

    process: BaseProcess
    connection: Connection

    def release(self) -> None:
        self.connection.send("out")
        self.process.join(20)


def hold_cores(folder: Path, cores: Iterable[int] = range(4)) -> Holder:
    here, there = FORK_SERVER.Pipe()
    process = FORK_SERVER.Process(target=_hold, args=(folder, [*cores], there), daemon=True)
    process.start()
    assert here.poll(60) and here.recv() == "in"
    return Holder(process, here)


@pytest.fixture
def lock_folder(tmp_path, monkeypatch):
    """Folder of the lock, for this process and others; this process finds four cores."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    before = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(before)


@pytest.mark.parametrize("cores", [range(4), range(3, 6)], ids=["all", "one of these cores"])
def test_a_second_user_of_the_cores_waits_for_the_first(lock_folder, capfd, cores):
    first = hold_cores(lock_folder, cores)
    torch.set_num_threads(3)
    entered = threading.Event()

    def enter() -> None:
        with devices.exclusive_cores(CPU):
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.wait(0.5)
    first.release()
    waiting.join(10)
    assert entered.is_set()
    assert "OMP_NUM_THREADS=2" in capfd.readouterr().err


def test_processes_on_different_cores_need_not_wait(lock_folder, capfd):
    first = hold_cores(lock_folder, range(4, 8))
    torch.set_num_threads(4)
    with devices.exclusive_cores(CPU):
        assert first.process.is_alive()
    first.release()
    assert "waiting" not in capfd.readouterr().err


def test_a_killed_process_releases_the_cores(lock_folder):
    first = hold_cores(lock_folder)
    first.process.kill()
    first.process.join(20)
    torch.set_num_threads(4)
    with devices.exclusive_cores(CPU):
        pass


@pytest.mark.parametrize(("threads", "device"), [(2, "cpu"), (4, "cuda")])
def test_half_of_the_cores_and_a_gpu_need_not_wait(lock_folder, threads, device):
    torch.set_num_threads(4)
    with devices.exclusive_cores(CPU):
        torch.set_num_threads(threads)
        with devices.exclusive_cores(torch.device(device)):
            pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(lock_folder):
    target = lock_folder / "target"
    target.write_text("mine")
    (lock_folder / f"finegrain-cores-{os.getuid()}.lock").symlink_to(target)
    torch.set_num_threads(4)
    with pytest.raises(OSError):
        with devices.exclusive_cores(CPU):
            pass
    assert target.read_text() == "mine"


def test_an_operation_that_is_not_deterministic_is_named_if_deterministic_is_set():
    devices.set_deterministic(True)
    try:
        with (
            pytest.raises(UserError, match="params.yaml: deterministic: put_ .*; set it to false"),
            devices.explain_errors("batch_size: 2", "halve it"),
        ):
            torch.zeros(4).put_(torch.tensor([0]), torch.tensor([1.0]))  # refused on the CPU too
    finally:
        torch.use_deterministic_algorithms(False)
    devices.set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
