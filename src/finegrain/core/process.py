"""How a stage's process lives and ends. Its script imports this first: it acts before the slow imports."""

import ctypes
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from finegrain.core import allocator
from finegrain.core.errors import UserError

REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "this disk, or `ulimit -f`, allows no file so large",
    errno.EROFS: "move the project to a disk that can be written",
    errno.EACCES: "give yourself the right to it (chmod, chown)",
    errno.EPERM: "give yourself the right to it (chmod, chown)",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
}
"""What the system refuses through no fault of the program, and what to do."""


def end_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed; elsewhere nothing happens."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _end_with_dvc() -> None:
    """Else a second trainer would run on unseen; a script that was started by hand may outlive its shell."""
    if sys.platform != "linux" or "DVC_STAGE" not in os.environ:
        return
    end_with_parent()
    if os.getppid() == 1 and b"dvc" not in Path("/proc/1/cmdline").read_bytes():
        sys.exit("error: dvc has been killed")  # while Python was starting


def _end_at_once_on_ctrl_c() -> None:
    """While a stage still imports it has nothing to keep and nothing to say: no traceback of an import."""
    if "DVC_STAGE" in os.environ and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _import_without_collecting() -> None:
    """What imports make stays: to look for garbage among it takes a tenth of the start-up."""
    if "DVC_STAGE" in os.environ:
        gc.disable()


allocator.keep_memory()
_end_with_dvc()
_end_at_once_on_ctrl_c()
_import_without_collecting()


def run_main(run: Callable[[], None], then: str = "`dvc repro` goes on from here") -> None:
    """Run a script's main(): what the user can mend is one message and exit 1, Ctrl-C is one line.

    Args:
        then: what to do after the cure.
    """
    gc.enable()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
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
