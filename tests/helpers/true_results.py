"""Checks of all that the stages have written in a folder, and of what the winner predicts."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from degenerate import MODEL, image
from safetensors.numpy import load_file


def require_predictions(folder: Path) -> None:
    """Predict photos of one pixel and of one color with the model of stage winner."""
    from finegrain.serving.predictor import Predictor

    predictor = Predictor.from_pretrained(next((folder / "winner").iterdir()), device="cpu")
    for photo in (image("one pixel", 1), image("black", 2), image("line", 3)):
        classes = predictor(photo)
        assert all(0 <= share <= 1 for _, share in classes) and classes == sorted(
            classes, key=lambda c: -c[1]
        )
        _, overlay = predictor.gradcam_overlay(photo, classes[0][0])
        assert overlay.shape[2] == 3


def numbers(value: Any) -> Iterator[float]:
    """All numbers in parsed JSON."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def require_true_results(folder: Path) -> None:
    """Check all that the stages have written: finite numbers, shares in 0..1, values in their intervals."""
    for file in [*folder.rglob("*.json")]:
        assert all(map(math.isfinite, numbers(json.loads(file.read_text())))), file
    for file in [*folder.glob("plots/**/*.csv")]:
        for row in csv.DictReader(file.open(newline="", encoding="utf-8")):
            for column, text in row.items():
                assert column in ("class", "split", "phase") or math.isfinite(float(text)), (file, row)
    for file in folder.glob("metrics/*/*-*.json"):
        metrics_ = json.loads(file.read_text())
        assert all(0 <= metrics_[k] <= 1 for k in metrics_ if "loss" not in k), metrics_
    for file in folder.glob("reports/*/intervals/*.json"):
        found = json.loads((file.parents[1] / "results" / file.name).read_text())["test"]
        for name, (low, high) in json.loads(file.read_text()).items():
            assert low <= high and (name not in ("top1", "top5") or low <= found[name] <= high), (name, file)
    board = json.loads((folder / "reports/leaderboard.json").read_text())
    assert board["winner"] == MODEL and board["models"][MODEL]["verdict"] == "winner"
    best = board["models"][MODEL]
    assert 0 <= best["test_top1_low"] <= best["test_top1"] <= best["test_top1_high"] <= 1
    assert (folder / "reports/index.html").read_text().count("data:image/png") >= 4
    for file in folder.glob("models/*/*.safetensors"):
        assert all(np.isfinite(values).all() for values in load_file(file).values()), file
