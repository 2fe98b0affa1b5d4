"""The predictions of one model for every test image, kept so that models can be compared pair by pair."""

from pathlib import Path

import numpy as np
import pandas as pd

from finegrain import record
from finegrain.errors import UserError
from finegrain.scores import Floats, Ints

TOP = 5


def write(file: Path, manifest: Path, probabilities: Floats, labels: Ints, names: list[str]) -> None:
    """CSV: path, class, loss, then the five most probable classes and their probabilities.

    Args:
        manifest: its test rows stand in the order of ``probabilities``.
        probabilities: ``[N, C]``.
        labels: ``[N]`` class ids.
    """
    rows = pd.read_csv(manifest, usecols=["path", "class", "split"], dtype=str, keep_default_na=False)
    rows = rows[rows["split"] == "test"]
    if [names[i] for i in labels] != rows["class"].tolist():
        raise UserError(
            f"{manifest}: its test images are not those of the pack; run `dvc repro` from the start"
        )
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
    # the smallest float32 keeps log() finite; real probabilities of that size come from underflow
    own = np.maximum(probabilities[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
    frame = pd.DataFrame({"path": rows["path"], "class": rows["class"], "loss": -np.log(own)})
    for rank in range(order.shape[1]):
        frame[f"class_{rank + 1}"] = [names[i] for i in order[:, rank]]
        frame[f"p_{rank + 1}"] = probabilities[np.arange(len(labels)), order[:, rank]]
    with record.replacing(file) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def read(file: Path) -> pd.DataFrame:
    """The table as ``write`` made it, with a column ``correct`` (bool)."""
    try:
        names = {"path": str, "class": str, **{f"class_{i + 1}": str for i in range(TOP)}}
        frame = pd.read_csv(file, dtype=names, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{file}: not found; `dvc repro` makes it, `dvc pull` fetches it") from None
    frame["correct"] = frame["class"] == frame["class_1"]
    return frame
