"""The kept predictions say what the probabilities said."""

import numpy as np
import pytest

from finegrain import predictions
from finegrain.errors import UserError

NAMES = ["a", "b", "c", "d", "e", "NA"]


def manifest(project, classes):
    file = project / "manifest.csv"
    rows = ["path,part,class,split", "x.png,z,a,train"]
    rows += [f"{i}.png,z,{name},test" for i, name in enumerate(classes)]
    file.write_text("\n".join(rows) + "\n")
    return file


def test_round_trip(project):
    probabilities = np.array([[0.5, 0.2, 0.1, 0.1, 0.06, 0.04], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    file = project / "p" / "m.csv"
    predictions.write(file, manifest(project, ["a", "NA"]), probabilities, np.array([0, 5]), NAMES)
    frame = predictions.read(file)
    assert frame["path"].tolist() == ["0.png", "1.png"]
    assert frame["class"].tolist() == ["a", "NA"]  # not read as a missing value
    assert frame["correct"].tolist() == [True, False]
    assert frame["class_2"].tolist() == ["b", "a"]
    assert frame["loss"].tolist() == pytest.approx(
        [-np.log(0.5), -np.log(np.finfo(np.float32).tiny)], rel=1e-5
    )
    assert frame["p_1"].tolist() == [0.5, 1.0]


def test_a_manifest_of_other_images_is_refused(project):
    with pytest.raises(UserError, match="not those of the pack"):
        predictions.write(project / "m.csv", manifest(project, ["b"]), np.eye(6)[:1], np.array([0]), NAMES)


def test_a_missing_file_says_how_to_get_it(project):
    with pytest.raises(UserError, match="dvc pull"):
        predictions.read(project / "no.csv")
