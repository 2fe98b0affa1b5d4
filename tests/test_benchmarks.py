"""The benchmarks run as a user would run them, at toy size; their tables say what was measured."""

import importlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from drawn import encode, picture
from pipeline import ROOT

BENCHMARKS = ROOT / "benchmarks"
WAYS = ["tutorial-large", "torchvision", "ours", "ceiling"]


def run(folder: Path, *command: str) -> str:
    """Passive OpenMP threads: a test must not fight over its cores with whatever else runs."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_WAIT_POLICY": "passive",
            "PYTHON": sys.executable,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def module(monkeypatch):
    """A module of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.slow
def test_throughput_measures_every_way_on_the_same_images(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "throughput.py"), "--toy", "--out", "out", "--ways", *WAYS]
    printed = run(tmp_path, *command)
    found = json.loads((tmp_path / "out" / "throughput.json").read_text())
    assert printed.strip() == (tmp_path / "out" / "throughput.md").read_text().strip()
    assert [row["way"] for row in found["table"]] == [run["way"] for run in found["runs"]] == WAYS
    assert [line for row in found["table"] for line in printed.splitlines() if f"| {row['label']} |" in line]
    for row, measured in zip(found["table"], found["runs"], strict=True):
        assert measured["images"] == 32 and 0.01 < measured["epoch_seconds"] < 100
        assert measured["images_per_second"] == pytest.approx(32 / measured["epoch_seconds"])
        assert 0.5 < measured["startup_seconds"] < 100
        assert row["failed"] == 0 and row["installed"]
        ours = next(run["images_per_second"] for run in found["runs"] if run["way"] == "ours")
        assert row["ours_times_faster"]["median"] == pytest.approx(ours / measured["images_per_second"])
    assert set(found["pack_seconds"]) == {"download", "split", "pack"}


@pytest.mark.slow
def test_predict_gives_evaluate_s_answers_and_both_speeds(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "predict.py"), "--toy", "--enlarge", "2", "--out", "out"]
    printed = run(tmp_path, *command)
    found = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert printed.strip().endswith((tmp_path / "out" / "predict.md").read_text().strip())
    runs = pd.DataFrame(found["runs"])
    assert set(runs["way"]) == {"evaluate", "files", "zip", "decode"} and len(runs) == 4 * 2 * 2
    assert (runs.groupby(["way", "round"])["images"].sum() == 32).all()
    seconds = runs.pivot_table(index="round", columns="way", values="seconds", aggfunc="sum")
    ratio = (seconds["evaluate"] / seconds["files"]).median()
    (row,) = [line for line in printed.splitlines() if "predict, JPEG files" in line]
    assert f"| {ratio:.2f} [" in row


@pytest.mark.slow
def test_gpu_runs_on_a_cpu_too(tmp_path):
    printed = run(tmp_path, "bash", str(BENCHMARKS / "gpu.sh"), "out", "--toy", "--minutes", "5")
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert printed.strip() == (tmp_path / "out" / "gpu.md").read_text().strip()
    assert not found["failed"] and not found["left_out"]
    assert [cell["batch_size"] for cell in found["cells"]] == [8] * 6 + [4] * 3
    assert len({cell["way"] for cell in found["cells"]}) == 6
    assert [row["side_pixels"] for row in found["growing"]] == [32, 32, 32, 64, 64, 64]
    rows = found["cells"] + found["growing"] + found["batches_alone"]
    assert all(0.1 < row["images_per_second"] < 1e6 for row in rows)


def test_the_gpu_table_says_after_how_many_images_compiling_pays(module):
    rows = [
        {"model": model, "batch_size": 8, "way": way, "images_per_second": speed, "start_seconds": start}
        for model, way, speed, start in [
            ("fast", "ceiling", 100.0, 1.0), ("fast", "ceiling, compiled", 200.0, 31.0),
            ("slow", "ceiling", 100.0, 1.0), ("slow", "ceiling, compiled", 90.0, 31.0),
        ]
    ]  # fmt: skip
    lines = list(module("gpu_table")._compiled(rows))
    assert lines[2:] == [
        "| fast | 8 | 200 | 2.00x | 31 | 6,000 |",  # 5 ms an image saved, 30 s more to start
        "| slow | 8 | 90 | 0.90x | 31 | never |",
    ]


def test_ratios_are_taken_within_a_round(module):
    table = module("table")
    speeds = {"torchvision": [10.0, 20.0, 10.0], "ours": [20.0, 60.0, 15.0]}
    runs = [
        {"round": i + 1, "model": "m", "way": way, "batch_size": 8, "precision": "fp32",
         "images_per_second": speed, "startup_seconds": 1.0}
        for way, each in speeds.items() for i, speed in enumerate(each)
    ]  # fmt: skip
    assert table.row(runs, "m", "torchvision")["ours_times_faster"] == {"min": 1.5, "median": 2.0, "max": 3.0}
    assert table.row(runs, "m", "torchvision")["images_per_second"]["median"] == 10.0


def test_a_round_that_failed_is_counted_and_the_others_stay(module):
    table = module("table")
    good = {"batch_size": 8, "precision": "fp32", "images_per_second": 4.0, "startup_seconds": 1.0}
    runs: list[dict[str, Any]] = [
        {"round": 1, "model": "m", "way": "ours", **good},
        {"round": 1, "model": "m", "way": "timm", "batch_size": 8, "error": "no memory"},
        {"round": 2, "model": "m", "way": "ours", **good},
        {"round": 2, "model": "m", "way": "timm", **good | {"images_per_second": 2.0}},
    ]
    row = table.row(runs, "m", "timm")
    assert row["failed"] == 1
    assert row["ours_times_faster"] == {"min": 2.0, "median": 2.0, "max": 2.0}


def test_photos_come_from_the_train_folder_without_repeats(module, tmp_path):
    inputs = module("inputs")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as made:
        for number in range(120):
            name = f"{'test' if number % 4 == 3 else 'train'}/class {number % 3}/{number}.jpg"
            made.writestr(name, encode(picture(number // 2), "JPEG"))  # two of each
    inputs.write_photos([tmp_path / "photos.zip"], tmp_path / "out", 12, 32)
    kept = {split: list((tmp_path / "out" / split).glob("*/*.jpg")) for split in ("train", "val", "test")}
    assert {split: len(files) for split, files in kept.items()} == {"train": 12, "val": 16, "test": 16}
    contents = [file.read_bytes() for files in kept.values() for file in files]
    assert len(set(contents)) == len(contents)
    assert all(3 <= len(list((tmp_path / f"out/train/class {c}").iterdir())) <= 5 for c in range(3))
    with pytest.raises(SystemExit, match="--images 500: the archives hold"):
        inputs.write_photos([tmp_path / "photos.zip"], tmp_path / "more", 500, 32)
    inputs.write_photos([tmp_path / "photos.zip"], tmp_path / "more", 500, 32, repeat=True)
    assert len(list((tmp_path / "more" / "train").glob("*/*.jpg"))) == 500
