"""Who may use all cores of a machine at once."""

import os
import subprocess
import sys
import tempfile
import threading

import pytest
import torch
from pipeline import ROOT

from finegrain.runtime import devices

CPU = torch.device("cpu")
ENTER = "import sys; from finegrain import runtime; import torch\nwith runtime.cores(torch.device('cpu')): {}"


def start(folder, threads: int, then: str) -> subprocess.Popen[str]:
    """Another process that takes the cores."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(folder)}
    environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-c", ENTER.format(then)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """The folder of the lock, here and there; four cores."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    before = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(before)


HOLD = "print('in', flush=True); sys.stdin.readline()"


def test_a_second_user_of_all_cores_waits_for_the_first(shared, capfd):
    first = start(shared, len(os.sched_getaffinity(0)) * 8, HOLD)
    assert first.stdout and first.stdin and first.stdout.readline() == "in\n"
    torch.set_num_threads(3)
    entered = threading.Event()

    def enter() -> None:
        with devices.exclusive_cores(CPU):
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.wait(0.5)
    first.communicate("\n")
    waiting.join(10)
    assert entered.is_set()
    said = capfd.readouterr().err
    assert "this one waits for it; with OMP_NUM_THREADS=2 for each, two run side by side" in said


def test_a_killed_one_leaves_nothing_behind(shared):
    first = start(shared, 32, HOLD)
    assert first.stdout and first.stdout.readline() == "in\n"
    first.kill()
    first.communicate()
    torch.set_num_threads(4)
    with devices.exclusive_cores(CPU):
        pass


@pytest.mark.parametrize(("threads", "device"), [(2, "cpu"), (4, "cuda")])
def test_half_of_the_cores_and_a_gpu_need_not_wait(shared, threads, device):
    torch.set_num_threads(4)
    with devices.exclusive_cores(CPU):
        torch.set_num_threads(threads)
        with devices.exclusive_cores(torch.device(device)):
            pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(shared):
    (shared / "victim").write_text("mine")
    (shared / f"finegrain-cores-{os.getuid()}.lock").symlink_to(shared / "victim")
    torch.set_num_threads(4)
    with pytest.raises(OSError):
        with devices.exclusive_cores(CPU):
            pass
    assert (shared / "victim").read_text() == "mine"


def test_a_stage_collects_garbage_once_it_has_imported(tmp_path):
    code = (
        "import gc\nfrom finegrain.core import process\n"
        "say = lambda: print(gc.isenabled())\nsay()\nprocess.run_main(say)"
    )
    for environment, expected in ({}, "True True"), ({"DVC_STAGE": "train@a-0"}, "False True"):
        usual = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=usual | environment | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout.split() == expected.split(), done.stderr
