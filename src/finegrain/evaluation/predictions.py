"""The predictions of one model for every test image, kept so that models can be compared pair by pair.

Whole as Parquet, by DVC; and which of them are right as text, small enough for git: verdicts need no more, so
that a pull request is judged where DVC's remote cannot be read.
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

CORRECT_COLUMNS = ("class", "images", "right")
OTHER_CLASS = "another class"


def predictions_table(
    manifest: Path, answers: Predictions, calibrated: Predictions, names: list[str]
) -> pd.DataFrame:
    """Path, class, loss, confidence, then the five most probable classes and their probabilities.

    Args:
        manifest: its test rows stand in the order of the answers.
        calibrated: the same with the temperature: ``confidence`` is of these, all else of ``answers``.
    """
    rows = pd.read_csv(manifest, usecols=["path", "class", "split"], dtype=str, keep_default_na=False)
    rows = rows[rows["split"] == "test"]
    if [names[i] for i in answers.labels] != rows["class"].tolist():
        raise UserError(
            f"{manifest}: its test images are not those of the pack; run `dvc repro` from the start"
        )
    columns = {"path": rows["path"], "class": rows["class"], "loss": answers.loss}
    frame = pd.DataFrame(columns | {"confidence": calibrated.confidence}).reset_index(drop=True)
    for rank in range(answers.top.shape[1]):
        frame[f"class_{rank + 1}"] = np.array(names, object)[answers.top[:, rank]]
        frame[f"p_{rank + 1}"] = answers.probabilities[:, rank]
    return frame


def write_predictions(file: Path, frame: pd.DataFrame) -> None:
    """Keep a ``table`` as Parquet."""
    with file_io.replace_file(file) as temporary:
        frame.to_parquet(temporary, index=False)


def read_predictions(file: Path) -> pd.DataFrame:
    """The ``table``, with a column ``correct`` (bool)."""
    try:
        return parse_predictions(file)
    except FileNotFoundError:
        raise UserError(f"{file}: not found; `dvc repro` makes it, `dvc pull` fetches it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a Parquet file ({error}); run `dvc repro` or `dvc pull`") from None


def parse_predictions(source: Path | BinaryIO) -> pd.DataFrame:
    """As ``read``.

    Raises:
        OSError: there is no such file, or it is damaged; ValueError: it is no Parquet.
    """
    frame = pd.read_parquet(source)
    frame["correct"] = frame["class"] == frame["class_1"]
    return frame


def correct_rows(frame: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Which answers are right: a row of ``RIGHT`` for each class.

    Args:
        frame: with ``path``, ``class`` and ``class_1`` of each test image.

    Returns:
        ``images`` is a hash of the paths of the class's test images in their order, ``right`` a 1 or a 0 for
        each of them.
    """
    rows = []
    for name, group in frame.groupby("class", sort=False):
        images = hashlib.sha256("\n".join(group["path"]).encode()).hexdigest()[:16]
        marks = ("1" if correct else "0" for correct in group["class"] == group["class_1"])
        rows.append((str(name), images, "".join(marks)))
    return rows


def anonymize(frame: pd.DataFrame) -> pd.DataFrame:
    """A ``table`` as ``parse_right`` gives it back."""
    return _expand_rows(correct_rows(frame))


def parse_correct(content: bytes) -> pd.DataFrame:
    """The CSV of ``right``'s rows, as a ``table`` of ``path``, ``class`` and ``class_1`` alone.

    A path is the hash of its class and a number: the same wherever that class has the same images. A wrong
    answer is ``WRONG``.

    Raises:
        ValueError: it is no such file.
    """
    kept = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    if tuple(kept.columns) != CORRECT_COLUMNS or not kept["right"].str.fullmatch("[01]+").all():
        raise ValueError(f"its columns must be {', '.join(CORRECT_COLUMNS)}, the last of ones and zeros")
    return _expand_rows(kept.itertuples(index=False, name=None))


def _expand_rows(rows: Iterable[tuple[str, str, str]]) -> pd.DataFrame:
    images = [
        (f"{images}/{place}", name, name if mark == "1" else OTHER_CLASS)
        for name, images, marks in rows
        for place, mark in enumerate(marks)
    ]
    return pd.DataFrame(images, columns=["path", "class", "class_1"])
