"""The kept predictions say what the probabilities said."""

import numpy as np
import pytest

from finegrain import answers, predictions
from finegrain.errors import UserError

NAMES = ["a", "b", "c", "d", "e", "NA"]


def manifest(project, classes):
    file = project / "manifest.csv"
    rows = ["path,part,class,split", "x.png,z,a,train"]
    rows += [f"{i}.png,z,{name},test" for i, name in enumerate(classes)]
    file.write_text("\n".join(rows) + "\n")
    return file


def of(probabilities, labels, temperature=1.0):
    return answers.of(np.log(probabilities).astype(np.float32), np.array(labels), temperature)


def test_round_trip(project):
    probabilities = np.array([[0.5, 0.2, 0.1, 0.1, 0.06, 0.04], [0.02, 0.9, 0.02, 0.02, 0.02, 0.02]])
    plain, calibrated = of(probabilities, [0, 5]), of(probabilities, [0, 5], 2.0)
    file = project / "p" / "m.parquet"
    predictions.write(file, manifest(project, ["a", "NA"]), plain, calibrated, NAMES)
    frame = predictions.read(file)
    assert frame["path"].tolist() == ["0.png", "1.png"]
    assert frame["class"].tolist() == ["a", "NA"]  # not read as a missing value
    assert frame["correct"].tolist() == [True, False]
    assert frame["class_2"].tolist() == ["b", "a"]
    assert frame["loss"].tolist() == pytest.approx([-np.log(0.5), -np.log(0.02)], rel=1e-5)
    assert frame["p_1"].tolist() == pytest.approx([0.5, 0.9])
    assert frame["confidence"].tolist() == pytest.approx(calibrated.confidence.tolist())
    assert list(frame.columns[4:8]) == ["class_1", "p_1", "class_2", "p_2"]


def test_the_same_bytes_twice(project):
    plain = of(np.full((2, 6), 1 / 6), [0, 5])
    for name in ("one", "two"):
        predictions.write(project / name, manifest(project, ["a", "NA"]), plain, plain, NAMES)
    assert (project / "one").read_bytes() == (project / "two").read_bytes()


def test_a_manifest_of_other_images_is_refused(project):
    plain = of(np.full((1, 6), 1 / 6), [0])
    with pytest.raises(UserError, match="not those of the pack"):
        predictions.write(project / "m", manifest(project, ["b"]), plain, plain, NAMES)


def test_a_missing_or_damaged_file_says_how_to_get_it(project):
    with pytest.raises(UserError, match="dvc pull"):
        predictions.read(project / "no.parquet")
    (project / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="bad.parquet: not a Parquet file"):
        predictions.read(project / "bad.parquet")
