"""The command lines of the benchmarks; nothing slow is imported here."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class _HelpWithDefaults(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description, and adds the default to the text of each option."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = " ".join(map(str, action.default)) if isinstance(action.default, list) else action.default
        if not action.help or default is None or default is False or default in ("", argparse.SUPPRESS):
            return action.help
        return f"{action.help} (default: {str(default).replace('%', '%%')})"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Parser of a benchmark, whose docstring is the description."""
    return argparse.ArgumentParser(description=description, formatter_class=_HelpWithDefaults)


def gpu_parser(description: str | None) -> argparse.ArgumentParser:
    """Parser of a command of gpu.sh: folder for the results, then archives of photos."""
    gpu = parser(description)
    gpu.add_argument("out", type=Path, nargs="?", default=Path("gpu-results"), help="folder for the results")
    gpu.add_argument("archives", type=Path, nargs="*", help="zips of class folders of JPEGs")
    return gpu


def parse_with_toy(
    options: argparse.ArgumentParser, argv: Sequence[str] | None, toy: Mapping[str, Any], text: str
) -> argparse.Namespace:
    """Parse arguments of which ``--toy`` replaces the defaults by those of ``toy``; ``text`` is its help."""
    options.add_argument("--toy", action="store_true", help=text)
    if "--toy" in (sys.argv[1:] if argv is None else argv):
        options.set_defaults(**toy)
    return options.parse_intermixed_args(argv)
