"""Setup and exit of a stage's process, and the code that it runs.

A stage's script imports this module first, because the setup must be done before the slow imports.
"""

import argparse
import ctypes
import errno
import functools
import gc
import hashlib
import importlib.util
import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from finegrain.core import allocator
from finegrain.core.errors import UserError, some

REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "use a disk, and a `ulimit -f`, that allows such large files",
    errno.EROFS: "move the project to a disk that can be written",
    errno.EACCES: "give yourself permission (chmod, chown)",
    errno.EPERM: "give yourself permission (chmod, chown)",
    errno.EISDIR: "remove or rename this folder, as a file belongs there",
    errno.ENOTDIR: "remove or rename the file that is in the place of a folder",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
}
"""What the user can do about errors of the operating system that are no fault of the program."""
ROOT = Path(__file__).resolve().parents[3]
CODE_SUFFIXES = (".py", ".j2")
"""Files that a stage runs or renders; an editor's own files beside them are not code."""


def end_with_parent() -> None:
    """Make Linux end this process when its parent is killed; does nothing on other systems."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _end_with_dvc() -> None:
    """End a stage when dvc is killed, so that no training goes on in the background.

    A script that was started by hand may outlive its shell.
    """
    if sys.platform != "linux" or "DVC_STAGE" not in os.environ:
        return
    end_with_parent()
    if os.getppid() == 1 and b"dvc" not in Path("/proc/1/cmdline").read_bytes():
        sys.exit("error: dvc was killed")  # while Python was starting


def _end_at_once_on_ctrl_c() -> None:
    """End a stage without a traceback when Ctrl-C is pressed during its imports: there is nothing to save."""
    if "DVC_STAGE" in os.environ and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _disable_garbage_collection() -> None:
    """Turn off garbage collection while a stage imports.

    The objects that imports create stay alive; searching them for garbage takes a tenth of the start-up.
    """
    if "DVC_STAGE" in os.environ:
        gc.disable()


def stage_code(stage: str) -> dict[str, str]:
    """SHA-256 of each file of code that dvc.yaml declares for a stage, by its path in the project."""
    import yaml  # not above: a Python without packages must get as far as _use_python_of_dvc

    entry = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    declared = sorted(path for path in entry["deps"] if path.startswith("src/"))
    files = (file for path in declared for file in _code_files(ROOT / path))
    return {
        file.relative_to(ROOT).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


@functools.cache
def code_at_start(stage: str) -> dict[str, str]:
    """``stage_code`` of the first call, before the slow imports in a stage."""
    return stage_code(stage)


def hash_at_start(stage: str) -> str:
    """One SHA-256 of a stage's code as this process runs it."""
    listing = "".join(f"{digest}  {path}\n" for path, digest in code_at_start(stage).items())
    return hashlib.sha256(listing.encode()).hexdigest()


def changed_files(stage: str) -> list[str]:
    """Files of a stage's code that were added, removed or edited since this process started."""
    before, now = code_at_start(stage), stage_code(stage)
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def _code_files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(
            file
            for file in path.rglob("*")
            if file.suffix in CODE_SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
    elif path.is_file():
        yield path


def _stage_of_dvc() -> str | None:
    """The stage of this project's dvc.yaml that DVC has started this process for; None for anything else."""
    script = Path(sys.argv[0]).resolve()
    is_stage = "DVC_STAGE" in os.environ and script.suffix == ".py" and script.parent == ROOT / "src"
    return script.stem if is_stage else None


def _remember_code() -> None:
    """Note the stage's code as it is before the imports."""
    if stage := _stage_of_dvc():
        code_at_start(stage)


def _reject_changed_code() -> None:
    """Make DVC record no result under the hash of code that has not made it.

    DVC hashes a stage's code when the stage has ended (https://github.com/treeverse/dvc/issues/11058).

    Raises:
        UserError: the stage's code has changed since this process started.
    """
    stage = _stage_of_dvc()
    if stage and (changed := changed_files(stage)):
        raise UserError(
            f"the code of stage {stage} was edited while it ran ({some(changed)}), and DVC would "
            "record the result as that of the new code; `dvc repro` runs the stage with the code as it is. "
            "Once the code is put back, a training continues from its last checkpoint"
        )


def _use_python_of_dvc() -> None:
    """Restart with dvc's own Python if the first one on the PATH lacks the packages.

    `.venv/bin/dvc repro` without an activated environment finds the system's Python.
    """
    if importlib.util.find_spec("torch"):
        return
    if sys.platform == "linux" and "DVC_STAGE" in os.environ:
        python = os.fsdecode(Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")[0])
        if os.path.isabs(python) and "python" in Path(python).name and python != sys.executable:
            os.execv(python, [python, *sys.argv])
    sys.exit(
        f"error: {sys.executable} lacks the packages of requirements.txt; `make install` installs them, "
        "`. .venv/bin/activate` puts their Python first on the PATH"
    )


def _ignore_ranks_left_over() -> None:
    """Drop the variables by which torchrun numbers its processes, if it has not started this one.

    A shell that was opened by a launcher passes them on to every process: training would wait for processes
    that do not exist, and all ranks but 0 print nothing.
    """
    left = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ]
    if not left or _is_started_by_torchrun():
        return
    for name in [*left, *(name for name in os.environ if name.startswith("TORCHELASTIC_"))]:
        del os.environ[name]
    print(f"note: {', '.join(left)} are ignored: torchrun has not started this process", file=sys.stderr)


def _is_started_by_torchrun() -> bool:
    """Whether torchrun, or a stage as launcher, has started this process; dvc passes on what it inherits."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    try:
        parent = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return True
    return "DVC_STAGE" not in os.environ or b"DVC_STAGE=" in parent


def _ignore_what_is_meant_for_others() -> None:
    """Drop variables that a notebook or a git hook leaves in the environment.

    matplotlib stops at a backend that it does not know, though figures are drawn to files alone; git would
    take another repository for this one, whose commit a model would then record.
    """
    for name in ("MPLBACKEND", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        os.environ.pop(name, None)


def _require_temporary_folder() -> None:
    """End with one message if no temporary file can be written: SQLite and matplotlib need some.

    Python skips folders that it cannot write into, or that are full, down to the current folder. SQLite does
    not skip a full one, so SQLITE_TMPDIR is set to the folder that Python has found.
    """
    try:
        os.environ.setdefault("SQLITE_TMPDIR", tempfile.gettempdir())
    except FileNotFoundError:
        sys.exit(
            "error: no folder for temporary files can be written (TMPDIR, /tmp, /var/tmp, this folder), or "
            "all are full; set TMPDIR to one with space"
        )


def _print_what_the_terminal_lacks() -> None:
    """Print characters that the terminal's encoding lacks as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


_print_what_the_terminal_lacks()
_use_python_of_dvc()
_ignore_ranks_left_over()
_ignore_what_is_meant_for_others()
_require_temporary_folder()
allocator.keep_freed_memory()
_end_with_dvc()
_remember_code()
_end_at_once_on_ctrl_c()
_disable_garbage_collection()


def parser(description: str | None) -> argparse.ArgumentParser:
    """A stage's parser, whose help keeps the lines of the script's docstring."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def run_parser(description: str | None, models: Collection[str]) -> argparse.ArgumentParser:
    """The parser of a stage that runs once for each model and seed.

    Args:
        models: names that are allowed.
    """
    stage_parser = parser(description)
    stage_parser.add_argument(
        "--model", required=True, choices=models, metavar="MODEL", help="one of `models` in params.yaml"
    )
    stage_parser.add_argument("--seed", type=int, required=True, help="one of `seeds` in params.yaml")
    return stage_parser


def run_main(run: Callable[[], None], then: str = "`dvc repro` continues from here") -> None:
    """Run a script's main function and exit with one message instead of a traceback where the user can act.

    A stage whose code was edited meanwhile fails. An error that the user can fix exits with status 1,
    Ctrl-C with 130 as in a shell. All other errors keep their traceback.

    Args:
        then: what to do once the problem is fixed, for the message.
    """
    gc.enable()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
        _reject_changed_code()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror}; {REMEDIES[error.errno]}, then {then}")
    except KeyboardInterrupt:
        print(f"interrupted; {then}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
