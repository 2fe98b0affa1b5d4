"""Links of the pages lead somewhere, tables have whole rows, and quoted messages are those of the code."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_commands import PAGES
from pipeline import ROOT

BENCHMARKS = ROOT / "benchmarks" / "README.md"
TROUBLESHOOTING = ROOT / "docs" / "TROUBLESHOOTING.md"
MESSAGES = re.findall(r"```text\n(.*?)```", TROUBLESHOOTING.read_text(), re.S)


def without_code(page: Path) -> str:
    """Its text without fenced blocks and comments."""
    return re.sub(r"^```.*?^```|<!--.*?-->", "", page.read_text(), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """Where GitHub lets a link into the page lead: its headings, in lower case and without punctuation."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Those to files of the repository, and to headings."""
    return re.findall(r"\]\((?!https?:)([^)]+)\)", without_code(page))


@pytest.mark.parametrize("page", PAGES + [BENCHMARKS], ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_heading(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_lists_every_page():
    index = ROOT / "docs" / "README.md"
    assert {file.name for file in index.parent.glob("*.md")} - {index.name} <= {*links(index)}


def test_the_benchmarks_page_lists_every_command():
    parts = {"gpu_study_table"}  # of `gpu.sh study`
    files = {file.stem: file.read_text() for file in BENCHMARKS.parent.glob("*.py")}
    commands = {name for name, text in files.items() if re.search(rf"python benchmarks/{name}\.py", text)}
    assert len(commands) > 10
    assert all(f"`{name}.py" in BENCHMARKS.read_text() for name in commands - parts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_rows_of_a_table_have_as_many_cells_as_its_head(page):
    for table in re.findall(r"(?:^\|.*\n)+", without_code(page), re.M):
        cells = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
        assert len(set(cells)) == 1, table


def test_every_file_named_in_text_exists():
    """Benchmarks, recipes, scripts and tests are named in code and comments too."""
    pattern = r"\b(benchmarks|recipes|scripts|tests)/[a-z0-9_/-]+\.(py|sh|yaml)"
    command = ["git", "grep", "-hoE", pattern, "--", "*.md", "*.py", "*.yaml", ":!tests/test_doc_commands.py"]
    named = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    assert len(named) > 30 and not [name for name in named if not (ROOT / name).is_file()]


def texts_of_code() -> Iterator[str]:
    """The fixed parts of all texts in src/, those between the braces of f-strings among them."""
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from re.split(r"\{.*?\}|\n", node.value)


def test_every_message_quoted_is_one_of_the_code():
    parts = {part.strip() for part in texts_of_code() if len(part.strip()) >= 12 and " " in part.strip()}
    ours = [message for message in MESSAGES if not message.startswith(("ERROR: ", "WARNING: "))]  # DVC's
    assert len(MESSAGES) >= 20 and len(ours) >= 15
    for message in ours:
        assert any(part in " ".join(message.split()) for part in parts), message
