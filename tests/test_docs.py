"""The tests that docs/RELIABILITY.md names are there."""

import re

import pytest
from pipeline import ROOT

ROWS = [
    line
    for line in (ROOT / "docs" / "RELIABILITY.md").read_text().splitlines()
    if re.search(r"\| test_[^|]+\|$", line)
]
"""The rows of the tables whose last column names tests: ``test_file: part of a name, another; test_file``."""


@pytest.mark.parametrize("row", ROWS)
def test_every_test_named_in_the_table_exists(row):
    for group in row.strip("| ").split("|")[-1].split(";"):
        file, _, names = group.strip().partition(":")
        text = (ROOT / "tests" / f"{file}.py").read_text()
        functions = re.findall(r"def (test_\w+)", text)
        for name in filter(None, (part.strip() for part in names.split(","))):
            assert any(name in function for function in functions), f"{file} has no {name}"


def test_the_table_is_read():
    assert len(ROWS) > 40
