"""README shows the committed run, and its commands and files exist."""

import re
import subprocess

from pipeline import ROOT

README = (ROOT / "README.md").read_text()


def test_the_results_table_is_that_of_the_committed_run():
    shown = re.search(r"<!-- leaderboard:.*?-->\n(.*?)<!-- end -->", README, re.S)
    # the commit's, not the workspace's: whoever runs `make repro` gets times of their own
    command = ["git", "show", "HEAD:reports/leaderboard.md"]
    committed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown and shown[1].strip() == committed.strip()


def test_every_linked_file_exists():
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", README)
    assert links and all((ROOT / link).is_file() for link in links)


def test_every_section_linked_is_there():
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", README, re.M)}
    pages = [README, *(file.read_text() for file in (ROOT / "docs").glob("*.md"))]
    links = [link for page in pages for link in re.findall(r"\]\((?:\.\./README\.md)?#([^)]+)\)", page)]
    assert len(links) > 1 and set(links) <= headings


def test_every_make_target_named_exists():
    targets = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.M))
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert targets and targets <= rules


def test_every_recipe_is_listed():
    assert all(f"recipes/{file.name}" in README for file in (ROOT / "recipes").glob("*.yaml"))
