"""Files are whole or absent, errors are one line, and the pool keeps order and bounds."""

import subprocess
import sys
import threading
import time

import pytest
from pipeline import ROOT

from finegrain import record
from finegrain.errors import UserError


def test_json_is_written_whole_and_refuses_nan(project):
    file = project / "a" / "b.json"
    record.write_json(file, {"z": 1, "a": "é"})
    assert file.read_text() == '{\n  "z": 1,\n  "a": "é"\n}\n'
    with pytest.raises(ValueError):
        record.write_json(file, {"z": float("nan")})
    assert record.read_json(file) == {"z": 1, "a": "é"}
    assert [f.name for f in file.parent.iterdir()] == ["b.json"]


def test_a_broken_json_file_names_file_and_cure(project):
    (project / "x.json").write_text("{")
    with pytest.raises(UserError, match="x.json: not JSON"):
        record.read_json(project / "x.json")
    with pytest.raises(UserError, match="no.json: not found; `dvc repro`"):
        record.read_json(project / "no.json")


def test_a_user_error_is_its_message_and_exit_1():
    code = (
        "from finegrain import record\nfrom finegrain.errors import UserError\n"
        "def main(): raise UserError('lr: -1 is bad')\nrecord.main(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (1, "error: lr: -1 is bad\n", "")


def test_ctrl_c_is_one_line_and_the_shell_s_exit_status():
    code = (
        "import os, signal, time\nfrom finegrain import record\n"
        "record.main(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(5)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted; `dvc repro` goes on from here\n")


def test_a_stage_dies_with_its_parent():
    child = (
        "from finegrain import record; import time\n"
        "record.main(lambda: (print('on', flush=True), time.sleep(60)))"
    )
    parent = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\nprint(p.pid, flush=True)\n"
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", parent], cwd=ROOT / "src", capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(100):
        try:
            state = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} outlived its parent")


def test_the_pool_keeps_the_order_and_never_runs_far_ahead():
    taken, lock, given = 0, threading.Lock(), 0

    def items():
        nonlocal taken
        for i in range(50):
            with lock:
                taken += 1
            yield i

    for result in record.in_order(lambda i: i * i, items(), threads=3, ahead=6):
        assert result == given**2
        given += 1
        assert taken - given <= 6
    assert given == 50


def test_an_error_in_the_pool_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(record.in_order(lambda i: 1 // i, [1, 0, 2], threads=2, ahead=2))
