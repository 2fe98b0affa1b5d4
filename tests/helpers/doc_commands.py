"""The commands in the fenced ``sh`` blocks of README.md, CONTRIBUTING.md and docs/."""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    """All fenced blocks of a page, without the fences."""
    return re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(), re.S | re.M)


def scripts(page: Path) -> list[str]:
    """The blocks that are a script of their own: they begin with ``#!``."""
    return [block for block in blocks(page) if block.startswith("#!")]


def command_lines(page: Path) -> Iterator[str]:
    """The lines of the other blocks, without comments; continued lines are joined."""
    for block in blocks(page):
        if not block.startswith("#!"):
            for line in re.sub(r" *\\\n *", " ", block).splitlines():
                if command := re.sub(r"(^|\s+)#.*", "", line).strip():
                    yield command
