"""Stages and dvc in processes of their own, forked from one that has imported torch and dvc.

To start Python with torch takes four seconds, with dvc one; a fork takes a moment.
"""

import multiprocessing
import multiprocessing.util
import os
import resource
import runpy
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from pipeline import ROOT

from finegrain.core import log as messages

multiprocessing.util.get_temp_dir()  # chosen now, as a test may set TMPDIR to a folder that pytest removes
FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(
    ["dvc.cli", "dvc.repo", "dvc_s3", "pandas", "kagglesdk.kaggle_client", "train", "evaluate", "pack"]
)


def start(
    script: Path | str,
    words: Sequence[str],
    folder: Path,
    log: Path,
    environment: Mapping[str, str | None] = {},
    errors: Path | None = None,
    **limits: int,
) -> BaseProcess:
    """Start a script as `python script words` in a folder; its output is appended to ``log``.

    Args:
        script: a path, or the name of a stage.
        environment: variables to set besides this process's own; None removes one.
        errors: file for standard error; None means ``log`` too.
        limits: ``resource`` limits by name, such as RLIMIT_FSIZE, in bytes.
    """
    file = script if isinstance(script, Path) else ROOT / "src" / f"{script}.py"
    variables = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    process = FORK_SERVER.Process(
        target=_run_script, args=(str(file), [*words], folder, [log, errors or log], variables, limits)
    )
    process.start()
    return process


@dataclass(frozen=True)
class Finished:
    returncode: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def run(
    script: Path | str,
    words: Sequence[str],
    folder: Path,
    environment: Mapping[str, str | None] = {},
    apart: bool = False,
    **limits: int,
) -> Finished:
    """Like ``start``, and wait for the end.

    Args:
        apart: keep standard error apart; otherwise both are in ``stdout``, in the order of time.
    """
    with tempfile.TemporaryDirectory() as temporary:
        log, errors = (Path(temporary) / name for name in ("stdout", "stderr"))
        process = start(script, words, folder, log, environment, errors if apart else None, **limits)
        return _finished(process, log, errors)


def run_dvc(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Finished:
    """Run `dvc words` in a folder, with just these environment variables."""
    with tempfile.TemporaryDirectory() as temporary:
        logs = [Path(temporary) / name for name in ("stdout", "stderr")]
        process = FORK_SERVER.Process(target=_run_dvc, args=([*words], folder, logs, dict(environment)))
        process.start()
        return _finished(process, *logs)


def _finished(process: BaseProcess, *logs: Path) -> Finished:
    process.join(300)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    texts = (log.read_text(errors="replace") if log.exists() else "" for log in logs)
    return Finished(process.exitcode, *texts)


def _run_dvc(words: list[str], folder: Path, logs: list[Path], environment: dict[str, str]) -> None:
    import dvc.cli

    _settle(folder, logs, environment)
    sys.argv[:] = ["dvc", *words]
    _exit(dvc.cli.main(words))


def _settle(folder: Path, logs: list[Path], environment: dict[str, str]) -> None:
    """Give this new process its folder, its environment, and files in the place of stdout and stderr."""
    for number, log in enumerate(logs, start=1):
        with log.open("ab", buffering=0) as output:
            os.dup2(output.fileno(), number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run_script(
    script: str,
    words: list[str],
    folder: Path,
    logs: list[Path],
    environment: dict[str, str],
    limits: dict[str, int],
) -> None:
    import torch

    code: object = 0
    _settle(folder, logs, environment)
    torch.set_num_threads(1)
    messages.IS_MAIN_PROCESS = environment.get("RANK", "0") == "0"  # as if imported with this environment
    sys.argv[:] = [script, *words]
    sys.path.insert(0, str(Path(script).parent))
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        code = 1
        traceback.print_exc()
    _exit(code if isinstance(code, int) else 1 if code else 0)
