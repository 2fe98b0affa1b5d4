"""The benchmarks run as a user would run them, at toy size; their tables say what was measured."""

import json
import sys
import zipfile
from typing import Any

import imbalance
import numpy as np
import pandas as pd
import pytest
import shared
import throughput_table
from drawn import encode, pattern
from run_benchmark import BENCHMARKS, run_benchmark

WAYS = ["tutorial-large", "torchvision", "ours", "ceiling"]


@pytest.mark.long
def test_throughput_measures_every_way_on_the_same_images(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "throughput.py"), "--toy", "--out", "out", "--ways", *WAYS]
    printed = run_benchmark(tmp_path, *command)
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


@pytest.mark.long
def test_predict_gives_evaluate_s_predictions_and_both_speeds(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "predict.py"), "--toy", "--enlarge", "2", "--out", "out"]
    printed = run_benchmark(tmp_path, *command)
    found = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert printed.strip().endswith((tmp_path / "out" / "predict.md").read_text().strip())
    runs = pd.DataFrame(found["runs"])
    assert set(runs["way"]) == {"evaluate", "files", "zip", "decode"} and len(runs) == 4 * 2 * 2
    assert (runs.groupby(["way", "round"])["images"].sum() == 32).all()
    seconds = runs.pivot_table(index="round", columns="way", values="seconds", aggfunc="sum")
    ratio = (seconds["evaluate"] / seconds["files"]).median()
    (row,) = [line for line in printed.splitlines() if "predict, JPEG files" in line]
    assert f"| {ratio:.2f} [" in row


def test_class_weights_are_compared_with_none_on_the_same_images():
    """Ten images of a large class and five of a small one, which only the weighted runs find."""
    labels = np.array(["large"] * 10 + ["small"] * 5, object)
    plain, weighted = np.array(["large"] * 15, object), np.array(["small"] + ["large"] * 9 + ["small"] * 5)
    tables = {
        name: [pd.DataFrame({"class": labels, "class_1": predicted})] * 3
        for name, predicted in (("none, top1", plain), ("balanced, macro_f1", weighted.astype(object)))
    }
    lines = imbalance.report(tables, ["small"]).replace("\N{NO-BREAK SPACE}", " ").splitlines()
    assert lines[2].startswith("| none, top1 | 40.0 %, 40.0 %, 40.0 % | 0.0 % | 100.0 % | 66.7 % | - |")
    assert lines[3].startswith("| balanced, macro_f1 | 92.8 %, 92.8 %, 92.8 % | 100.0 % | 90.0 % | 93.3 % |")
    assert lines[3].endswith("| significantly better |")


@pytest.mark.long
def test_the_gain_of_class_weights_is_measured_by_the_real_stages(tmp_path):
    toy = ["--images-per-class", "24", "--image-size", "32", "--seeds", "0", "--throughout"]
    lines = run_benchmark(tmp_path, sys.executable, str(BENCHMARKS / "imbalance.py"), *toy).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| none, top1", "| balanced, macro_f1", "| balanced throughout, macro_f1",
    ]  # fmt: skip


def test_ratios_are_taken_within_a_round():
    speeds = {"torchvision": [10.0, 20.0, 10.0], "ours": [20.0, 60.0, 15.0]}
    runs = [
        {"round": i + 1, "model": "m", "way": way, "batch_size": 8, "precision": "fp32",
         "images_per_second": speed, "startup_seconds": 1.0}
        for way, each in speeds.items() for i, speed in enumerate(each)
    ]  # fmt: skip
    assert throughput_table.row(runs, "m", "torchvision")["ours_times_faster"] == {
        "min": 1.5,
        "median": 2.0,
        "max": 3.0,
    }
    assert throughput_table.row(runs, "m", "torchvision")["images_per_second"]["median"] == 10.0


def test_a_round_that_failed_is_counted_and_the_others_stay():
    good = {"batch_size": 8, "precision": "fp32", "images_per_second": 4.0, "startup_seconds": 1.0}
    runs: list[dict[str, Any]] = [
        {"round": 1, "model": "m", "way": "ours", **good},
        {"round": 1, "model": "m", "way": "timm", "batch_size": 8, "error": "no memory"},
        {"round": 2, "model": "m", "way": "ours", **good},
        {"round": 2, "model": "m", "way": "timm", **good | {"images_per_second": 2.0}},
    ]
    row = throughput_table.row(runs, "m", "timm")
    assert row["failed"] == 1
    assert row["ours_times_faster"] == {"min": 2.0, "median": 2.0, "max": 2.0}


def test_accuracies_are_compared_image_by_image():
    right = {"ours": np.array([[1.0, 1, 1, 0]] * 2), "other": np.array([[1.0, 1, 0, 0], [1, 0, 1, 0]])}
    cells = shared.accuracy_cells(right, "ours")
    assert cells["ours"][0] == "75.0%, 75.0%" and cells["ours"][2] == "-"
    assert cells["other"][0] == "50.0%, 50.0%" and cells["other"][1].startswith("50.0% [")
    assert cells["other"][2].startswith("+25.0 [") and cells["other"][2].endswith("] points")


def test_photos_come_from_the_train_folder_without_repeats(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as made:
        for number in range(120):
            name = f"{'test' if number % 4 == 3 else 'train'}/class {number % 3}/{number}.jpg"
            made.writestr(name, encode(pattern(number // 2), "JPEG"))  # two of each
    shared.write_photos([tmp_path / "photos.zip"], tmp_path / "out", 12, 32)
    kept = {split: list((tmp_path / "out" / split).glob("*/*.jpg")) for split in ("train", "val", "test")}
    assert {split: len(files) for split, files in kept.items()} == {"train": 12, "val": 16, "test": 16}
    contents = [file.read_bytes() for files in kept.values() for file in files]
    assert len(set(contents)) == len(contents)
    assert all(3 <= len(list((tmp_path / f"out/train/class {c}").iterdir())) <= 5 for c in range(3))
    with pytest.raises(SystemExit, match="--images 500: the archives hold"):
        shared.write_photos([tmp_path / "photos.zip"], tmp_path / "more", 500, 32)
    shared.write_photos([tmp_path / "photos.zip"], tmp_path / "more", 500, 32, repeat=True)
    assert len(list((tmp_path / "more" / "train").glob("*/*.jpg"))) == 500
