"""Every command of README, CONTRIBUTING and docs parses: its sub-command, flags and files exist.

Nothing is run here: tests/docs_check.py does that.
A command of a program that is neither checked nor listed with a reason fails.
"""

import contextlib
import io
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
from doc_commands import PAGES, command_lines, scripts
from dvc.cli.parser import get_main_parser
from pipeline import ROOT

from finegrain import cli

NOT_CHECKED = {
    "wait": "the shell's own",
    ".": "only puts the environment on the path",
    "git": "git's own",
    "hf": "needs an account of the Hugging Face Hub",
    "sudo": "needs a server's administrator",
    "pip": "pip's own",
    "uv": "uv's own",
    "docker": "no container engine runs in the tests",
}
"""Programs whose words are not parsed, and why."""


def commands() -> Iterator[tuple[str, str]]:
    """File name and command, one for each part of a line that ``&&`` joins."""
    for page in PAGES:
        for line in command_lines(page):
            words = shlex.split(line)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                yield page.name, shlex.join(words[:end])
                words = words[end + 1 :]


COMMANDS = sorted(set(commands()))


def problem(command: str) -> str | None:
    """The error in a command; None if it is valid."""
    words = [word for word in shlex.split(command) if word != "&"]
    while re.match(r"[A-Z_]+=", words[0]):  # a variable of the environment
        words = words[1:]
    program, *words = words
    if program in NOT_CHECKED:
        return None
    if program == "make":
        rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
        missing = {word for word in words if "=" not in word} - rules
        return f"no target {missing}" if missing else None
    if program == "cp":
        made = words[0].startswith("reports/")  # by the stages; tests/docs_check.py runs the command
        return None if made or (ROOT / words[0]).is_file() else f"no file {words[0]}"
    parser = {"dvc": get_main_parser, "finegrain": cli.build_parser}.get(program)
    if parser is None:
        return f"{program}: check it here, or list it in NOT_CHECKED with the reason"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            parser().parse_args(words)
    except SystemExit:
        return printed.getvalue().strip().splitlines()[-1]
    except Exception as error:  # dvc's parser raises one of its own
        return f"{type(error).__name__}: {error} {printed.getvalue()[-200:]}"
    return None


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: value)
def test_the_command_parses(page, command):
    assert problem(command) is None


def test_scripts_of_the_pages_are_valid_shell():
    found = [script for page in PAGES for script in scripts(page)]
    assert found
    for script in found:
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_the_pages_are_read():
    assert len(COMMANDS) > 50


@pytest.mark.parametrize(
    "wrong",
    [
        "dvc reproo",
        "dvc repro --no-such",
        "finegrain dif main",
        "make nothing",
        "cp recipes/no.yaml params.yaml",
        "foo",
    ],
)
def test_a_rotten_command_is_found(wrong):
    assert problem(wrong)
