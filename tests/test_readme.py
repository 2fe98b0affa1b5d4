"""README shows the committed run, and its commands and files exist."""

import re
import subprocess

import sample_blocks
from pipeline import ROOT

README = (ROOT / "README.md").read_text()


def test_the_results_table_is_that_of_the_committed_run():
    # the commit's, not the workspace's: whoever runs `make repro` gets times of their own
    command = ["git", "show", "HEAD:reports/leaderboard.md"]
    committed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sample_blocks.shown("leaderboard") == committed.strip()


def test_every_make_target_named_exists():
    targets = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.M))
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert targets and targets <= rules


def test_every_recipe_is_listed():
    assert all(f"recipes/{file.name}" in README for file in (ROOT / "recipes").glob("*.yaml"))
