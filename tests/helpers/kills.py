"""Kill the processes of a pipeline: dvc, a stage, or all of them at once."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil


def processes(folder: Path) -> Iterator[psutil.Process]:
    """Processes that work in the folder, or in a copy that DVC makes below it."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def stage_of(process: psutil.Process) -> str | None:
    words = command_line(process).split()
    script = next((word for word in words if word.startswith("src/") and word.endswith(".py")), None)
    return Path(script).stem if script and "python" in words[0] else None


def send(number: int, wanted: Callable[[psutil.Process], bool]) -> Callable[[Path, int], None]:
    def act(folder: Path, _: int) -> None:
        for process in [p for p in processes(folder) if wanted(p)]:
            try:
                process.send_signal(number)
            except psutil.Error:
                pass

    return act


def power_cut(folder: Path, _: int) -> None:
    """Kill everything at once; cut unfinished files in half."""
    for number in (signal.SIGSTOP, signal.SIGKILL):  # no process sees another one die first
        send(number, lambda process: True)(folder, _)
    for state in (folder / ".checkpoints").glob("*/lock"):
        state.with_name(".checkpoint.pt.tmp").write_bytes(os.urandom(1000))
    for file in folder.rglob(".*.tmp"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)


def is_dvc(process: psutil.Process) -> bool:
    return "dvc" in command_line(process) and stage_of(process) is None


def at_work(stage: psutil.Process) -> bool:
    """Whether the dvc that started the stage still runs, such as a queue's worker with its next task."""
    try:
        return any(is_dvc(parent) for parent in stage.parents())
    except psutil.Error:
        return False


KILLS: dict[str, Callable[[Path, int], None]] = {
    "kill -9 dvc": send(signal.SIGKILL, is_dvc),
    "kill dvc": send(signal.SIGTERM, is_dvc),
    "kill -9 the stage": send(signal.SIGKILL, lambda process: stage_of(process) is not None),
    "Ctrl-C": lambda folder, group: os.killpg(group, signal.SIGINT),
    "power cut": power_cut,
}
