"""Progress bars and messages on standard error."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 60.0
"""Time between two lines of progress in a log file."""
IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"
"""True in the first of the processes that torchrun starts; only this one prints.

``process`` has dropped a RANK that is left over from another launch."""


class _Lines(tqdm):
    """Progress as whole lines, which a log file keeps one below the other."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        print(self, file=self.fp, flush=True)

    def close(self) -> None:
        """End without a last line: the caller prints the result."""
        self.disable = True


def progress_bar(
    items: Iterable[Any] | None = None, *, total: int | None, label: str, unit: str = "img"
) -> Any:
    """On a terminal, a bar that is erased at its end; in a log file, a line after each minute."""
    if sys.stderr.isatty():
        return tqdm(
            items, total=total, desc=label, unit=unit, dynamic_ncols=True, file=sys.stderr, smoothing=0.1,
            leave=False, disable=not IS_MAIN_PROCESS,
        )  # fmt: skip
    return _Lines(
        items, total=total, desc=label, unit=unit, mininterval=LOG_SECONDS, delay=LOG_SECONDS, miniters=1,
        bar_format="{desc}: {percentage:.0f} %, {elapsed} passed, {remaining} left",
        file=sys.stderr, smoothing=0.1, disable=not IS_MAIN_PROCESS,
    )  # fmt: skip


def info(line: str) -> None:
    """Print a message on standard error, above any progress bar; the main process alone prints."""
    if not IS_MAIN_PROCESS:
        return
    line = line.replace("\N{NO-BREAK SPACE}%", "%")  # a page's; not every terminal has that space
    if sys.stderr.isatty():
        tqdm.write(line, file=sys.stderr)  # above the bars
    else:
        print(line, file=sys.stderr, flush=True)
