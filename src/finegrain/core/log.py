"""Progress bars and messages on standard error, for the person who watches a run."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

IS_MAIN_PROCESS = os.environ.get("RANK", "0") == "0"
"""True in the first of the processes that torchrun starts; only this one prints.

``process`` has dropped a RANK that is left over from another launch."""


def progress_bar(
    items: Iterable[Any] | None = None, *, total: int | None, label: str, unit: str = "img"
) -> Any:
    """A tqdm bar on a terminal; in a log file, one line every 10 seconds at most."""
    interactive = sys.stderr.isatty()
    return tqdm(
        items, total=total, desc=label, unit=unit, mininterval=0.1 if interactive else 10,
        delay=0 if interactive else 10, dynamic_ncols=True,
        file=sys.stderr, smoothing=0.1, leave=interactive, disable=not IS_MAIN_PROCESS,
    )  # fmt: skip


def info(line: str) -> None:
    """Print a line for the person who watches; results are written to files instead."""
    if not IS_MAIN_PROCESS:
        return
    if sys.stderr.isatty():
        tqdm.write(line, file=sys.stderr)  # above the bars
    else:
        print(line, file=sys.stderr, flush=True)
