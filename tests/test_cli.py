"""The command line: every command has its module, and values out of range are rejected."""

import argparse
import importlib.util

import pytest

from finegrain import cli


def test_every_command_has_a_module():
    (commands,) = (
        action.choices
        for action in cli.build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    assert set(commands) == set(cli.COMMANDS)
    for module in cli.COMMANDS.values():
        assert importlib.util.find_spec(f"finegrain.{module}"), module


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "a.jpg", "--top", "0"],
        ["predict", "a.jpg", "--image-size", "-1"],
        ["predict", "a.jpg", "--image-size", "1"],
        ["predict", "a.jpg", "--top", "1" + "0" * 20],
        ["diff", "main", "--images", "-1"],
        ["sweep", "a", "lr=1..2", "--hours", "nan"],
        ["sweep", "a", "lr=1..2", "--trials", "9" * 5000],
        ["sweep", "a" * 300, "lr=1..2"],
        ["sweep", "1st", "lr=1..2"],
        ["demo", "--port", "0"],
    ],
)
def test_values_out_of_range_are_rejected(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.build_parser().parse_args(words)
    message = capsys.readouterr().err.splitlines()[-1]
    assert "error: argument" in message and any(f": {word[:80]}: must be" in message for word in words)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_help_describes_every_argument_and_gives_its_default(command):
    (commands,) = (a.choices for a in cli.build_parser()._actions if isinstance(a.choices, dict))
    for action in commands[command]._actions:
        assert action.help, action.dest
        if (
            isinstance(action.default, int | str)
            and action.nargs != 0
            and action.default != argparse.SUPPRESS
        ):
            assert "(default: " in action.help, action.dest
