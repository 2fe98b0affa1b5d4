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
OTHER_CLASS = "another class"


def predictions_table(
    manifest: Path, raw: Predictions, calibrated: Predictions, names: list[str]
) -> pd.DataFrame:
    """Path, class, loss, confidence, then the five most probable classes and their probabilities.

    Args:
        manifest: CSV whose test rows are in the order of the predictions.
        raw: predictions of the test split without a temperature, from which all other columns come.
        calibrated: predictions with the temperature, from which ``confidence`` comes.

    Raises:
        UserError: the manifest lists other test images than the predictions have labels for.
    """
    rows = pd.read_csv(manifest, usecols=["path", "class", "split"], dtype=str, keep_default_na=False)
    rows = rows[rows["split"] == "test"]
    if [names[i] for i in raw.labels] != rows["class"].tolist():
        raise UserError(
            f"{manifest}: its test images are not those of the pack; run `dvc repro` to make both again"
        )
    columns = {"path": rows["path"], "class": rows["class"], "loss": raw.loss}
    frame = pd.DataFrame(columns | {"confidence": calibrated.confidence}).reset_index(drop=True)
    for rank in range(raw.top_classes.shape[1]):
        frame[f"class_{rank + 1}"] = np.array(names, object)[raw.top_classes[:, rank]]
        frame[f"p_{rank + 1}"] = raw.top_probabilities[:, rank]
    return frame


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
        frame: ``path``, ``class`` and ``class_1`` of each test image.

    Returns:
        ``images`` is a hash of the paths of the class's test images in their order; the last column holds a 1
        (correct) or a 0 for each of them.
    """
    rows = []
    for name, group in frame.groupby("class", sort=False):
        images = hashlib.sha256("\n".join(group["path"]).encode()).hexdigest()[:16]
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
