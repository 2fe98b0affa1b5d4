"""The predictions of one model for every test image, stored so that models can be compared image by image.

DVC keeps the whole table as Parquet. Git keeps only which predictions are correct, as a small text file: that
is all a verdict needs, so a pull request can be judged where DVC's remote cannot be read.
"""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.models.outputs import Predictions

CORRECT_COLUMNS = ("class", "images", "correct")
OTHER_CLASS = ""
"""Stands for the name of any incorrect class; no class has an empty name."""


def require_same_data(manifest: Path, pack_fingerprint: str, weights: Path, trained_on: str) -> None:
    """Check that the manifest is the one of the pack, and the pack the one that the model was trained on.

    Args:
        pack_fingerprint: ``PackedSplit.fingerprint``, which begins with the sha256 of the pack's manifest.
        trained_on: the same of the training's pack, from the model's sidecar.

    Raises:
        UserError: the images are others, even if they have the same paths and classes.
    """
    fix = "`dvc checkout` restores what dvc.lock records, `dvc repro` makes them again"
    if not pack_fingerprint.startswith(file_io.sha256(manifest)):
        raise UserError(f"{manifest}: its images are not those of the pack; {fix}")
    if pack_fingerprint != trained_on:
        raise UserError(f"{weights}: was trained on another pack than the one here; {fix}")


def predictions_table(
    manifest: Path, raw: Predictions, calibrated: Predictions, names: list[str]
) -> pd.DataFrame:
    """Path, class, loss, confidence, the five most probable classes and their probabilities, image's sha256.

    Args:
        manifest: CSV whose test rows are in the order of the predictions.
        raw: predictions of the test split without a temperature, from which all other columns come.
        calibrated: predictions with the temperature, from which ``confidence`` comes.

    Raises:
        UserError: the manifest lists other test images than the predictions have labels for.
    """
    columns = ["path", "class", "split", "sha256"]
    rows = pd.read_csv(manifest, usecols=columns, dtype=str, keep_default_na=False)
    rows = rows[rows["split"] == "test"]
    if [names[i] for i in raw.labels] != rows["class"].tolist():
        raise UserError(
            f"{manifest}: its test images are not those of the pack; run `dvc repro` to make both again"
        )
    scores = {"loss": raw.loss, "confidence": calibrated.confidence}
    frame = pd.DataFrame({"path": rows["path"], "class": rows["class"]} | scores).reset_index(drop=True)
    for rank in range(raw.top_classes.shape[1]):
        frame[f"class_{rank + 1}"] = np.array(names, object)[raw.top_classes[:, rank]]
        frame[f"p_{rank + 1}"] = raw.top_probabilities[:, rank]
    frame["sha256"] = rows["sha256"].to_numpy()
    return frame


def image_key(frame: pd.DataFrame) -> str:
    """The column by which an image is known: its content, or its path in a table without that."""
    return "sha256" if "sha256" in frame else "path"


def write_predictions(file: Path, frame: pd.DataFrame) -> None:
    """Write a predictions table as Parquet."""
    with file_io.replace_file(file) as temporary:
        frame.to_parquet(temporary, index=False)


def read_predictions(file: Path) -> pd.DataFrame:
    """The predictions table with a further column ``correct`` (bool).

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return parse_predictions(file)
    except FileNotFoundError:
        raise UserError(f"{file}: not found; run `dvc repro` or `dvc pull` to get it") from None
    except (OSError, ValueError) as error:
        fix = "run `dvc repro` or `dvc pull` to replace it"
        raise UserError(f"{file}: not a Parquet file ({error}); {fix}") from None


def parse_predictions(source: Path | BinaryIO) -> pd.DataFrame:
    """The same as ``read_predictions``, for a file or an open stream.

    Raises:
        OSError: the file is missing or damaged.
        ValueError: it is not a Parquet file.
    """
    frame = pd.read_parquet(source)
    frame["correct"] = frame["class"] == frame["class_1"]
    return frame


def correct_rows(frame: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Which predictions are correct: a row of ``CORRECT_COLUMNS`` for each class.

    Args:
        frame: ``path``, ``class``, ``class_1`` and usually ``sha256`` of each test image.

    Returns:
        ``images`` is a hash of the ``image_key`` of the class's test images in their order; the last column
        holds a 1 (correct) or a 0 for each of them.
    """
    rows = []
    for name, group in frame.groupby("class", sort=False):
        images = hashlib.sha256("\n".join(group[image_key(frame)]).encode()).hexdigest()[:16]
        marks = ("1" if correct else "0" for correct in group["class"] == group["class_1"])
        rows.append((str(name), images, "".join(marks)))
    return rows


def anonymize(frame: pd.DataFrame) -> pd.DataFrame:
    """A predictions table as it is after ``correct_rows`` and ``parse_correct``."""
    return _expand_rows(correct_rows(frame))


def parse_correct(content: bytes) -> pd.DataFrame:
    """Read the CSV of ``correct_rows`` as a predictions table with ``path``, ``class`` and ``class_1`` only.

    A path is the hash of its class's images and a number: the same wherever that class has the same images.
    ``class_1`` of an incorrect prediction is ``OTHER_CLASS``.

    Raises:
        ValueError: the content is not such a CSV.
    """
    kept = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    if tuple(kept.columns) != CORRECT_COLUMNS or not kept["correct"].str.fullmatch("[01]+").all():
        raise ValueError(f"its columns must be {', '.join(CORRECT_COLUMNS)}, the last of ones and zeros")
    return _expand_rows(kept.itertuples(index=False, name=None))


def _expand_rows(rows: Iterable[tuple[str, str, str]]) -> pd.DataFrame:
    images = [
        (f"{images}/{place}", name, name if mark == "1" else OTHER_CLASS)
        for name, images, marks in rows
        for place, mark in enumerate(marks)
    ]
    return pd.DataFrame(images, columns=["path", "class", "class_1"])
