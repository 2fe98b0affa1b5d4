"""The predictions of one model for every test image, kept so that models can be compared pair by pair."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from finegrain import record
from finegrain.answers import Answers
from finegrain.errors import UserError


def write(file: Path, manifest: Path, answers: Answers, calibrated: Answers, names: list[str]) -> None:
    """Parquet: path, class, loss, confidence, then the five most probable classes and their probabilities.

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
    with record.replacing(file) as temporary:
        frame.to_parquet(temporary, index=False)


def read(file: Path) -> pd.DataFrame:
    """The table as ``write`` made it, with a column ``correct`` (bool)."""
    try:
        return parse(file)
    except FileNotFoundError:
        raise UserError(f"{file}: not found; `dvc repro` makes it, `dvc pull` fetches it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a Parquet file ({error}); run `dvc repro` or `dvc pull`") from None


def parse(source: Path | BinaryIO) -> pd.DataFrame:
    """As ``read``.

    Raises:
        OSError: there is no such file, or it is damaged; ValueError: it is no Parquet.
    """
    frame = pd.read_parquet(source)
    frame["correct"] = frame["class"] == frame["class_1"]
    return frame
