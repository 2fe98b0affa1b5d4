"""Write the committed sample's results into the pages that show them: README.md and docs/TRAIN.md.

    python scripts/sample_blocks.py    (or `make docs`)

A block begins with a comment, ``<!-- leaderboard: ... -->`` or ``<!-- metrics: ... -->``, and ends with
``<!-- end -->``. Run it in the project after `dvc repro`, before the commit of its results.
"""

import argparse
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def leaderboard() -> str:
    """reports/leaderboard.md."""
    return (ROOT / "reports" / "leaderboard.md").read_text()


def metrics() -> str:
    """What `dvc metrics show` prints, in a fence."""
    printed = subprocess.run(
        ["dvc", "metrics", "show"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    lines = [line.rstrip() for line in printed.stdout.splitlines()]
    return "\n".join(["```text", *lines, "```"])


BLOCKS: dict[str, tuple[Path, Callable[[], str]]] = {
    "leaderboard": (ROOT / "README.md", leaderboard),
    "metrics": (ROOT / "docs" / "TRAIN.md", metrics),
}
"""Name of each block, the page that has it, and its content."""


def shown(name: str) -> str:
    """The content of a block, without spaces at either end."""
    return _parts(name)[1].strip()


def _parts(name: str) -> tuple[str, str, str]:
    """What is before a block's content, the content, and what is after it."""
    page, _ = BLOCKS[name]
    found = re.fullmatch(rf"(.*<!-- {name}:.*?-->\n)(.*?)(<!-- end -->.*)", page.read_text(), re.S)
    assert found, f"{page} has no block {name}"
    return found[1], found[2], found[3]


def main() -> None:
    for name, (page, content) in BLOCKS.items():
        before, _, after = _parts(name)
        page.write_text(f"{before}{content().strip()}\n{after}")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
