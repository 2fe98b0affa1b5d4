"""Setup and exit of a stage's process.

A stage's script imports this module first, because the setup must be done before the slow imports.
"""

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
    errno.EACCES: "give yourself permission (chmod, chown)",
    errno.EPERM: "give yourself permission (chmod, chown)",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
}
"""What the user can do about errors of the operating system that are no fault of the program."""


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


allocator.keep_freed_memory()
_end_with_dvc()
_end_at_once_on_ctrl_c()
_disable_garbage_collection()


def run_main(run: Callable[[], None], then: str = "`dvc repro` continues from here") -> None:
    """Run a script's main function and exit with one message instead of a traceback where the user can act.

    An error that the user can fix exits with status 1, Ctrl-C with 130 as in a shell. All other errors keep
    their traceback.

    Args:
        then: what to do once the problem is fixed, for the message.
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
