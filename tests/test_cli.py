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
        ["diff", "main", "--images", "-1"],
        ["sweep", "1st", "lr=1..2"],
        ["demo", "--port", "0"],
    ],
)
def test_values_out_of_range_are_rejected(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.build_parser().parse_args(words)
    assert "error: argument" in capsys.readouterr().err
