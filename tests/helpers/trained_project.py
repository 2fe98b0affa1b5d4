"""A project with one trained and evaluated model, run once for all test files that need it."""

import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from clone import TINY
from conftest import made_once
from params_file import write_params

PARAMETERS = {
    **TINY,
    "dataset__images_per_class": 40,
    "split__test_ratio": 0.3,  # more test images than a batch
    "pack__image_size": 40,
    "phases": {"all": {**TINY["phases"]["all"], "epochs": 2}},
}


def copy_trained_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the project to a folder of the caller's own; ``photos`` holds its test images as files."""
    made = made_once(tmp_path_factory, "trained", _make)
    folder = tmp_path_factory.mktemp("trained")
    return shutil.copytree(made, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".checkpoints"))


def _make(folder: Path) -> Path:
    import download
    import evaluate
    import pack
    import split
    import train

    folder.mkdir(parents=True)
    write_params(folder, **PARAMETERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (download, split, pack):
            stage.main([])
        for stage in (train, evaluate):
            stage.main(["--model", "resnet18", "--seed", "0"])
    (folder / "reports/leaderboard.json").write_text(
        '{"winner": "resnet18", "models": {"resnet18": {"run": "resnet18-0"}}}'
    )
    rows = pd.read_csv(folder / "data/sample/manifest.csv")
    with zipfile.ZipFile(folder / "data/sample/archive/sample.zip") as archive:
        archive.extractall(folder / "photos", rows[rows["split"] == "test"]["path"])
    return folder
