"""A stage's process prints one message for an error that the user can fix, and ends when dvc is killed."""

import errno
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from pipeline import ROOT, STAGES, script_of

from finegrain.core import process


def test_a_user_error_prints_its_message_and_exits_with_1():
    code = (
        "from finegrain.core import process\nfrom finegrain.core.errors import UserError\n"
        "def main(): raise UserError('lr: -1 is bad')\nprocess.run_main(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (1, "error: lr: -1 is bad\n", "")


INTERRUPT = "os.kill(os.getpid(), signal.SIGINT), time.sleep(5)"


def run_script(end: str, **environment: str) -> tuple[int, str]:
    """Exit status and standard error of a script that imports ``process`` and then runs the code ``end``."""
    code = (
        "import os, signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from finegrain.core import process\n{end}"  # a background job would ignore the signal
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "src", env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("environment", [{}, {"DVC_STAGE": "train@resnet18-0"}])
def test_ctrl_c_prints_one_line_and_exits_with_130(environment):
    status, stderr = run_script(f"process.run_main(lambda: ({INTERRUPT}))", **environment)
    assert status == 130 and stderr.count("\n") == 1
    assert stderr.startswith("interrupted; `dvc repro`")


def test_ctrl_c_while_a_stage_imports_prints_no_traceback():
    assert run_script(INTERRUPT, DVC_STAGE="train@resnet18-0") == (-signal.SIGINT, "")


def test_a_stage_ends_with_dvc_even_while_it_imports():
    child = (
        "from finegrain.core import process\nimport time\n"
        "print('on', flush=True); time.sleep(60)"  # stands for `import torch`
    )
    parent = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\nprint(p.pid, flush=True)\n"
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "DVC_STAGE": "train@resnet18-0"}
    done = subprocess.run(
        [sys.executable, "-c", parent], cwd=ROOT / "src", env=environment, capture_output=True, text=True
    )
    pid = int(done.stdout)
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} outlived its parent")


@pytest.mark.parametrize("number", sorted(process.REMEDIES))
def test_an_error_of_the_system_is_one_message_with_file_and_fix(number):
    def failing():
        raise OSError(number, os.strerror(number), "models/sample/resnet18-0.safetensors")

    with pytest.raises(SystemExit) as caught:
        process.run_main(failing)
    message = str(caught.value)
    assert message.startswith("error: models/sample/resnet18-0.safetensors: ") and "\n" not in message
    assert process.REMEDIES[number] in message and os.strerror(number) in message


def test_a_bug_keeps_its_traceback():
    def broken():
        raise OSError(errno.EBADF, "a bug")

    with pytest.raises(OSError, match="a bug"):
        process.run_main(broken)


@pytest.mark.parametrize("name", STAGES)
def test_every_script_imports_process_first(name):
    """Otherwise a stage would survive a kill of dvc during the seconds in which torch is imported."""
    lines = (ROOT / script_of(name)).read_text().splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert imports[0].startswith("from finegrain.core import process ")


def test_garbage_collection_is_off_only_while_a_stage_imports():
    code = (
        "import gc\nfrom finegrain.core import process\n"
        "show = lambda: print(gc.isenabled())\nshow()\nprocess.run_main(show)"
    )
    for environment, expected in ({}, ["True", "True"]), ({"DVC_STAGE": "train@a-0"}, ["False", "True"]):
        usual = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=usual | environment | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout.split() == expected, done.stderr


def test_what_a_notebook_or_a_git_hook_leaves_behind_is_ignored(tmp_path):
    end = "import matplotlib, subprocess; subprocess.run(['git', 'rev-parse', 'HEAD'], check=True)"
    left = {"MPLBACKEND": "Qt4Agg", "GIT_DIR": str(tmp_path), "GIT_WORK_TREE": "/", "GIT_INDEX_FILE": "x"}
    assert run_script(end, **left)[0] == 0
    assert run_script(end.replace("matplotlib", "sys"))[0] == 0


def test_no_folder_for_temporary_files_is_one_message():
    code = "import tempfile\ntempfile._candidate_tempdir_list = lambda: ['/no/such/folder']\n"
    code += "from finegrain.core import process"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: no folder for temporary files can be written")
    assert "set TMPDIR" in done.stderr


def test_sqlite_uses_the_folder_that_python_has_found(tmp_path):
    end = "import tempfile\nassert os.environ['SQLITE_TMPDIR'] == tempfile.gettempdir() != '/no/such/folder'"
    assert run_script(end, TMPDIR="/no/such/folder") == (0, "")
    end = f"assert os.environ['SQLITE_TMPDIR'] == {str(tmp_path)!r}"
    assert run_script(end, SQLITE_TMPDIR=str(tmp_path)) == (0, "")


SHOW_RANKS = """
import os
from finegrain.core import process
from finegrain.core import log
print(log.IS_MAIN_PROCESS, sorted({"RANK", "WORLD_SIZE", "LOCAL_RANK"} & os.environ.keys()))
"""
LEFT_OVER = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "9",
}


@pytest.mark.parametrize(
    ("environment", "ignored"),
    [
        (LEFT_OVER, True),  # Slurm's or a shell's own: torchrun would say more
        ({"RANK": "1"}, True),
        (
            LEFT_OVER | {"TORCHELASTIC_RUN_ID": "none", "DVC_STAGE": "train@resnet18-0"},
            True,
        ),  # dvc in such a shell
        (LEFT_OVER | {"TORCHELASTIC_RUN_ID": "none"}, False),
    ],
)
def test_ranks_of_another_launch_are_ignored_and_reported(environment, ignored):
    clean = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    done = subprocess.run(
        [sys.executable, "-c", SHOW_RANKS],
        cwd=ROOT / "src",
        env=clean | environment,
        capture_output=True,
        text=True,
    )
    names = sorted(environment.keys() & {"RANK", "WORLD_SIZE", "LOCAL_RANK"})
    assert done.stdout == ("True []\n" if ignored else f"False {names}\n")
    assert ("are ignored: torchrun has not started this process" in done.stderr) == ignored


@pytest.mark.parametrize("dvc", [True, False])
def test_a_python_without_the_packages_is_replaced_by_dvc_s_or_named(tmp_path, dvc):
    """A script of this Python stands in for ``dvc``, in a folder whose python3 has no packages."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    stage = tmp_path / "stage.py"
    stage.write_text("from finegrain.core import process\nimport sys\nprint(sys.executable, sys.argv[1:])")
    command = f"exec python3 {stage} --seed 0"
    start = f"import subprocess, sys; sys.exit(subprocess.run({command!r}, shell=True).returncode)"
    environment = os.environ | {"PATH": f"{bare}/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src")}
    environment |= {"DVC_STAGE": "train"} if dvc else {}
    if not dvc:
        environment.pop("DVC_STAGE", None)
    done = subprocess.run([sys.executable, "-c", start], env=environment, capture_output=True, text=True)
    if dvc:
        assert (done.returncode, done.stdout) == (0, f"{sys.executable} ['--seed', '0']\n"), done.stderr
    else:
        assert done.returncode == 1 and f"{bare}/bin/python3 lacks the packages" in done.stderr
