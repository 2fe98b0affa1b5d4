"""The messages of docs/TROUBLESHOOTING.md are those that are printed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import drawn
import pytest
from params_file import PHASE, SOLVED_PHASE, write_params
from pipeline import ROOT

import download
import inputs
import split
from finegrain.config import params
from finegrain.core.errors import UserError

LISTED = re.findall(r"^error: (.*)", (ROOT / "docs/TROUBLESHOOTING.md").read_text(), re.M)
PHOTOS = drawn.classes({"ant": 12, "bee": 12})
ZIP, LABELS = Path("../photos.zip"), Path("labels.csv")


@pytest.fixture(autouse=True)
def project_folder(tmp_path, monkeypatch) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")


def is_listed(message: str) -> bool:
    """Whether the page has the message's first line; ``...`` stands for the rest of one."""
    first = message.splitlines()[0]
    return any(
        first == line or (line.endswith("...") and first.startswith(line.removesuffix("...")))
        for line in LISTED
    )


def rejected(run: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        run()
    return str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"phases": {"tune": PHASE | {"epoch": 20}}},
        {"lr": "fast"},
        {"phases": {"solve": SOLVED_PHASE}, "head": {"widths": [8]}},
        {"batch_size": 32, "devices": 3},
    ],
    ids=str,
)
def test_wrong_parameters(changes):
    write_params(Path(), **changes)
    assert is_listed(rejected(params.load_params))


@pytest.mark.parametrize(
    "text", ["seeds: [0]" + "\n" * 33 + "lr 0.002\nseed: 0\n", "\n" * 83 + "refit: no\n"]
)
def test_wrong_yaml(text):
    Path("params.yaml").write_text(text)
    assert is_listed(rejected(params.load_params))


def run_data_stages(path: str = "../photos.zip", **dataset: Any) -> None:
    source = {"name": "photos", "source": "archive", "path": path, **dataset}
    write_params(Path(), dataset=source, split={"val_ratio": 0.15, "test_ratio": 0.15})
    for stage in (inputs, download, split):
        stage.main([])


@pytest.mark.parametrize(
    "photos",
    [
        {"1.png": drawn.png(1), "2.png": drawn.png(2)},
        PHOTOS | {"x.png": drawn.png(99)},
        {f"{top}/{path}": data for top in ("color", "gray") for path, data in PHOTOS.items()},
        drawn.classes({"ant": 5, "bee": 2}),
        drawn.classes({"ant": 18, "bee": 18}) | {f"ant/bad{n}.jpg": b"<html></html>" for n in range(4)},
    ],
    ids=["no folder", "outside", "repeated folders", "few images", "bad images"],
)
def test_wrong_photos(photos):
    drawn.zip_file(ZIP, photos)
    assert is_listed(rejected(run_data_stages))


def test_a_wrong_path():
    drawn.zip_file(ZIP, PHOTOS)
    assert is_listed(rejected(lambda: run_data_stages("../photo.zip")))
    ZIP.write_text("<html>")
    assert is_listed(rejected(run_data_stages))


@pytest.mark.parametrize("table", ["foto,art\nant/000.png,ant\n", "image,class\nz9.png,ant\n"])
def test_wrong_labels(table):
    drawn.zip_file(ZIP, PHOTOS)
    LABELS.write_text(table)
    assert is_listed(rejected(lambda: run_data_stages(labels="labels.csv")))


def test_a_wrong_correction():
    drawn.zip_file(ZIP, PHOTOS)
    Path("corrections.csv").write_text("path,action,class\nant/000.png,relabel,beee\n")
    assert is_listed(rejected(lambda: run_data_stages(corrections="corrections.csv")))


def test_missing_weights():
    write_params(Path(), weights="resnet18.pth")
    assert is_listed(rejected(lambda: inputs.main([])))
