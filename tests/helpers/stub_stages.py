"""A clone whose stages need neither torch nor training, for tests of what DVC itself does with them."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from clone import Clone

from finegrain.evaluation import predictions

STAGES = ("download", "split", "pack", "train", "evaluate", "compare", "winner")
CLASSES = ["Bus", "Car", "Tractor"]
TEST_IMAGES = 36
VARIANTS = 8
"""Evaluate's stub picks one of so many prepared sets of predictions by the hash of its inputs."""


def install(clone: Clone) -> None:
    """Replace the stage scripts by stubs; nothing is committed."""
    for stage in STAGES:
        shutil.copy(Path(__file__).with_name("stub_stage.py"), clone.folder / f"src/{stage}.py")
    prepared = clone.folder / "src/stub"
    prepared.mkdir()
    for variant in range(VARIANTS):
        write_variant(prepared, variant)


def write_variant(folder: Path, variant: int) -> None:
    """Predictions of which 16 + 2 ``variant`` of 36 are correct, as evaluate keeps them."""
    rng = np.random.default_rng(variant)
    labels = np.arange(TEST_IMAGES) % len(CLASSES)
    correct = rng.permutation(TEST_IMAGES) < 16 + 2 * variant
    predicted = np.where(correct, labels, (labels + 1) % len(CLASSES))
    names = np.array(CLASSES, object)
    frame = pd.DataFrame(
        {
            "path": [f"{names[label]}/{place}.jpg" for place, label in enumerate(labels)],
            "class": names[labels],
            "loss": np.where(correct, 0.3, 1.5),
            "confidence": 0.7,
            "class_1": names[predicted],
        }
    )
    frame.to_parquet(folder / f"{variant}.parquet", index=False)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [predictions.CORRECT_COLUMNS, *predictions.correct_rows(frame)]
    )
    manifest = frame.assign(split="test")[["path", "class", "split"]].to_csv(index=False)
    summary = {"images": TEST_IMAGES, "top1": float(correct.mean()), "correct": text.getvalue()}
    (folder / f"{variant}.json").write_text(json.dumps(summary | {"manifest": manifest}))


def stages_run(output: str) -> set[str]:
    """Names of the stages that a dvc command has run, by what it printed."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")}


def stub_clone(folder: Path) -> Clone:
    """With ``TINY`` as its committed parameters; its stubs have run once and the results are committed."""
    made = Clone.tiny(folder)
    install(made)
    made.commit("stubs")
    made("dvc repro")
    made.commit("run")
    return made
