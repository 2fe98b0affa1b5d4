"""Notes on settings that are allowed but seldom meant."""

import pytest
from params_file import PHASE, SOLVED_PHASE, write_params

from finegrain.config import params
from finegrain.training import run


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"phases": {"one": PHASE | {"image_size": [64, 96]}}}, ["phases.one.image_size: 96 is above"]),
        ({"phases": {"one": SOLVED_PHASE}}, ["phases.one solves a head on a network of random weights"]),
        ({"phases": {"one": SOLVED_PHASE}, "weights": "DEFAULT"}, []),
        ({"phases": {"one": PHASE, "two": SOLVED_PHASE}}, []),
    ],
)
def test_settings_that_are_seldom_meant_are_noted(tmp_path, changes, expected):
    config = params.load_params(write_params(tmp_path, **changes))
    notes = list(run.notes_on_settings(config, "resnet18", 80))
    assert len(notes) == len(expected)
    assert all(note.startswith(start) for note, start in zip(notes, expected, strict=True))
