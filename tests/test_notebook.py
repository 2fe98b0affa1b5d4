"""The notebook runs from its first cell to its last, on a small sample and without downloads."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from clone import Clone
from nbclient import NotebookClient
from pipeline import ROOT

NOTEBOOK = ROOT / "notebooks/finegrain.ipynb"
STUB_PYTHON = f"""#!/bin/sh
case "$*" in *"-m pip "*) echo "$@" >> "$PIP_LOG"; exit 0;; esac
exec {sys.executable} "$@"
"""
"""What `make install` finds in .venv: it records the calls of pip, and installs nothing."""


def outputs(cell: nbformat.NotebookNode) -> str:
    """All that a cell shows."""
    shown = (o.get("text") or "".join(map(str, o.get("data", {}).values())) for o in cell.get("outputs", []))
    return "".join(shown)


def small_repository(folder: Path) -> Clone:
    """A repository with a small sample, and with an environment as if it had been made."""
    clone = Clone.tiny(folder)
    programs = clone.folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("python", "python3", "pip"):
        (programs / name).write_text(STUB_PYTHON)
    for name in ("dvc", "finegrain"):
        (programs / name).write_text(f'#!/bin/sh\nexec {Path(sys.executable).parent / name} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    clone("git add -f .venv && git commit -q -m environment")
    return clone


def test_it_is_committed_without_outputs_and_is_short():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert 10 <= len(notebook.cells) <= 16
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.long
def test_it_runs(tmp_path, monkeypatch):
    clone = small_repository(tmp_path / "repository")
    for name, value in clone.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_LOG", str(tmp_path / "pip.log"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (settings,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    settings.source = re.sub("(?<=REPOSITORY=).*", str(clone.folder), settings.source)
    work = tmp_path / "work"
    work.mkdir()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(work)}}).execute()
    cells = {cell.id: outputs(cell) for cell in notebook.cells}
    assert "--require-hashes -r requirements.txt" in (tmp_path / "pip.log").read_text()
    assert "| **resnet18** |" in cells["leaderboard"]
    assert "<html" in cells["report"]
    assert "resnet18" in cells["change"] and "photos/" in cells["predict"]
