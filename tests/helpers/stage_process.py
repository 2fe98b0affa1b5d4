"""Stages in processes of their own, forked from one that has imported torch: they start in a moment."""

import multiprocessing
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

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["train", "evaluate", "pack"])


def start(
    script: Path | str,
    words: Sequence[str],
    folder: Path,
    log: Path,
    environment: Mapping[str, str] = {},
    **limits: int,
) -> BaseProcess:
    """Start a script as `python script words` in a folder; its output is appended to ``log``.

    Args:
        script: a path, or the name of a stage.
        environment: variables to set besides this process's own.
        limits: ``resource`` limits by name, such as RLIMIT_FSIZE, in bytes.
    """
    file = script if isinstance(script, Path) else ROOT / "src" / f"{script}.py"
    process = FORK_SERVER.Process(
        target=_run_script, args=(str(file), [*words], folder, log, {**os.environ, **environment}, limits)
    )
    process.start()
    return process


@dataclass(frozen=True)
class Finished:
    returncode: int
    output: str


def run(
    script: Path | str, words: Sequence[str], folder: Path, environment: Mapping[str, str] = {}, **limits: int
) -> Finished:
    """As ``start``, to the end; the output is standard output and error together."""
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary) / "log"
        process = start(script, words, folder, log, environment, **limits)
        process.join(200)
        if process.exitcode is None:
            process.kill()
            process.join()
        return Finished(process.exitcode or 0, log.read_text(errors="replace") if log.exists() else "")


def _run_script(
    script: str,
    words: list[str],
    folder: Path,
    log: Path,
    environment: dict[str, str],
    limits: dict[str, int],
) -> None:
    import torch

    code: object = 0
    with log.open("ab", buffering=0) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
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
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1 if code else 0)
