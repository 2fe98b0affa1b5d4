"""Who may use all cores of a machine at once."""

import os
import subprocess
import sys
import tempfile
import threading

import pytest
import torch
from pipeline import ROOT

from finegrain import runtime

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
        with runtime.cores(CPU):
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
    with runtime.cores(CPU):
        pass


@pytest.mark.parametrize(("threads", "device"), [(2, "cpu"), (4, "cuda")])
def test_half_of_the_cores_and_a_gpu_need_not_wait(shared, threads, device):
    torch.set_num_threads(4)
    with runtime.cores(CPU):
        torch.set_num_threads(threads)
        with runtime.cores(torch.device(device)):
            pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(shared):
    (shared / "victim").write_text("mine")
    (shared / f"finegrain-cores-{os.getuid()}.lock").symlink_to(shared / "victim")
    torch.set_num_threads(4)
    with pytest.raises(OSError):
        with runtime.cores(CPU):
            pass
    assert (shared / "victim").read_text() == "mine"


def imported(then: str, *folders) -> str:
    """What a process prints that imports finegrain.runtime first."""
    path = os.pathsep.join(map(str, [*folders, ROOT / "src"]))
    done = subprocess.run(
        [sys.executable, "-c", f"from finegrain import runtime\nimport sys, torch\n{then}"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torch_s_compiler_is_imported_only_when_it_is_used():
    said = imported(
        "print('torch._dynamo' in sys.modules)\n"
        "print(torch.compile(torch.sin, backend='eager')(torch.zeros(2)).tolist())\n"
        "from torch._dynamo.utils import is_compile_supported\n"
        "print(is_compile_supported.__module__, runtime.torchvision.ops.roi_align(\n"
        "    torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]]), 1).item())"
    )
    assert said.splitlines() == ["False", "[0.0, 0.0]", "torch._dynamo.utils 1.0"]


def test_a_torchvision_that_asks_more_of_the_compiler_gets_it(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("from torch._dynamo.utils import counters\n")
    assert imported("print(len(runtime.torchvision.counters))", tmp_path) == "0"


def test_a_stage_collects_garbage_once_it_has_imported(tmp_path):
    code = (
        "import gc\nfrom finegrain import stage\nsay = lambda: print(gc.isenabled())\nsay()\nstage.main(say)"
    )
    for environment, expected in ({}, "True True"), ({"DVC_STAGE": "train@a-0"}, "False True"):
        usual = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=usual | environment | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout.split() == expected.split(), done.stderr
