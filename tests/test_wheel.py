"""The wheel holds all of the library: installed elsewhere, it predicts without a clone."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import drawn
import numpy as np
import pytest
from pipeline import ROOT
from untrained import save_untrained

from finegrain.core import paths

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from what git tracks or would, as files left by an earlier build would get into it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "src", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    drawn.tree(
        source, {n: (ROOT / n).read_bytes() for n in listed.stdout.splitlines() if (ROOT / n).exists()}
    )
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "-w", out, source], check=True)
    (built,) = out.glob("*.whl")
    return built


def test_it_holds_every_file_of_the_library_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "src/finegrain"
    files = {file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert held == {f"finegrain/{file.relative_to(package)}" for file in files}
    assert "finegrain/comparison/report.html.j2" in held


def test_its_metadata_has_the_extras_and_the_exact_versions(wheel):
    text = zipfile.ZipFile(wheel).read("finegrain-0.1.0.dist-info/METADATA").decode()
    lines = text.splitlines()
    assert {"Requires-Dist: torch==2.15.0", "Requires-Dist: torchvision==0.29.2"} <= set(lines)
    assert 'Requires-Dist: pi-heif==1.4.0; extra == "heif"' in lines
    assert [line for line in lines if line.startswith("Provides-Extra")] == [
        "Provides-Extra: heif",
        "Provides-Extra: app",
    ]


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel; the packages it needs are those of this environment."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "env", symlinks=True)
    (site,) = (folder / "env/lib").glob("python*/site-packages")
    # a plain path: the .pth files in it, among them this checkout's, are not read
    (site / "these.pth").write_text(f"{Path(np.__file__).parents[1]}\n")
    python = folder / "env/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True)
    save_untrained(*paths.exported_model(folder / "model"), classes="abcdefg", favorite=2)
    drawn.tree(folder / "photos", {f"{n}.png": drawn.png(n) for n in range(3)})
    return folder


def run(folder: Path, *words: str) -> str:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, check=True).stdout


def test_the_command_is_there(elsewhere):
    assert "predict" in run(elsewhere, "env/bin/finegrain", "--help")


def test_it_predicts(elsewhere):
    """By the command and by the class, in one process: its imports take most of the time."""
    words = ["predict", "photos", "--model", "model", "--format", "jsonl", "--top", "1"]
    code = (
        "import contextlib, finegrain; print(finegrain.__file__); from finegrain import cli\n"
        f"with contextlib.suppress(SystemExit): cli.main({words})\n"
        "from finegrain.serving.predictor import Predictor\n"
        "print(Predictor.from_pretrained('model')('photos/0.png')[0][0])"
    )
    file, *rows, best = run(elsewhere, "env/bin/python", "-c", code).splitlines()
    assert Path(file).is_relative_to(elsewhere / "env")
    assert [json.loads(row)["top"][0]["class"] for row in rows] == ["c"] * 3 and best == "c"


def test_on_windows_one_line_names_wsl():
    code = "import sys; sys.platform = 'win32'; from finegrain import cli"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines() == [done.stderr.strip()] and "WSL" in done.stderr
