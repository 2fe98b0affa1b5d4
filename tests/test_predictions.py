"""The table of predictions holds the probabilities, and the text file which predictions are correct."""

import numpy as np
import pandas as pd
import pytest

from finegrain.core import file_io
from finegrain.core.errors import UserError
from finegrain.evaluation import predictions
from finegrain.models import outputs

NAMES = ["a", "b", "c", "d", "e", "NA"]


def manifest(project, classes):
    file = project / "manifest.csv"
    rows = ["path,part,class,split,sha256", f"x.png,z,a,train,{'e' * 64}"]
    rows += [f"{i}.png,z,{name},test,{i:064x}" for i, name in enumerate(classes)]
    file.write_text("\n".join(rows) + "\n")
    return file


def predict(probabilities, labels, temperature=1.0):
    return outputs.from_logits(np.log(probabilities).astype(np.float32), np.array(labels), temperature)


def test_round_trip(project):
    probabilities = np.array([[0.5, 0.2, 0.1, 0.1, 0.06, 0.04], [0.02, 0.9, 0.02, 0.02, 0.02, 0.02]])
    raw, calibrated = predict(probabilities, [0, 5]), predict(probabilities, [0, 5], 2.0)
    file = project / "p" / "m.parquet"
    predictions.write_predictions(
        file, predictions.predictions_table(manifest(project, ["a", "NA"]), raw, calibrated, NAMES)
    )
    frame = predictions.read_predictions(file)
    assert frame["path"].tolist() == ["0.png", "1.png"]
    assert frame["class"].tolist() == ["a", "NA"]  # not read as a missing value
    assert frame["correct"].tolist() == [True, False]
    assert frame["class_2"].tolist() == ["b", "a"]
    assert frame["loss"].tolist() == pytest.approx([-np.log(0.5), -np.log(0.02)], rel=1e-5)
    assert frame["p_1"].tolist() == pytest.approx([0.5, 0.9])
    assert frame["confidence"].tolist() == pytest.approx(calibrated.confidence.tolist())
    assert frame["sha256"].tolist() == [f"{i:064x}" for i in range(2)]
    assert list(frame.columns[4:8]) == ["class_1", "p_1", "class_2", "p_2"]


def test_the_same_bytes_twice(project):
    raw = predict(np.full((2, 6), 1 / 6), [0, 5])
    for name in ("one", "two"):
        table = predictions.predictions_table(manifest(project, ["a", "NA"]), raw, raw, NAMES)
        predictions.write_predictions(project / name, table)
    assert (project / "one").read_bytes() == (project / "two").read_bytes()


def test_a_manifest_of_other_images_is_rejected(project):
    raw = predict(np.full((1, 6), 1 / 6), [0])
    with pytest.raises(UserError, match="manifest.csv: its test images are not those of the pack"):
        predictions.predictions_table(manifest(project, ["b"]), raw, raw, NAMES)


def test_a_missing_or_damaged_file_is_reported_with_the_command_that_replaces_it(project):
    with pytest.raises(UserError, match="no.parquet: not found.*dvc pull"):
        predictions.read_predictions(project / "no.parquet")
    (project / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="bad.parquet: not a Parquet file"):
        predictions.read_predictions(project / "bad.parquet")


FRAME = pd.DataFrame(
    {
        "path": ["a/1.jpg", "b/1.jpg", "a/2.jpg", "b/2.jpg", "NA/1.jpg"],
        "class": ["a", 'b, "c"', "a", 'b, "c"', "NA"],
        "class_1": ["a", "a", "NA", 'b, "c"', "NA"],
    }
)


def test_correct_predictions_are_written_as_text_without_the_names_of_the_images(project):
    file = project / "correct.csv"
    file_io.write_csv(file, predictions.CORRECT_COLUMNS, predictions.correct_rows(FRAME))
    text = file.read_text()
    assert [line[-2:] for line in text.splitlines()] == ["ct", "10", "01", ",1"] and ".jpg" not in text
    parsed = predictions.parse_correct(file.read_bytes())
    assert parsed["class"].tolist() == ["a", "a", 'b, "c"', 'b, "c"', "NA"]
    assert (parsed["class"] == parsed["class_1"]).tolist() == [True, False, False, True, True]
    assert parsed["class_1"].tolist()[1:3] == [predictions.OTHER_CLASS] * 2
    assert parsed["path"].is_unique
    pd.testing.assert_frame_equal(parsed, predictions.anonymize(FRAME))


def test_anonymous_paths_of_a_class_do_not_change_with_another_class():
    moved = FRAME.assign(path=["a/1.jpg", "b/1.jpg", "a/2.jpg", "b/3.jpg", "NA/1.jpg"])
    one, other = (predictions.anonymize(frame) for frame in (FRAME, moved))
    assert (one["path"] == other["path"]).tolist() == [True, True, False, False, True]


def test_anonymous_paths_are_of_the_images_content_not_of_their_names():
    contents = FRAME.assign(sha256=list("12345"))
    renamed = contents.assign(path=list("vwxyz"))
    replaced = contents.assign(sha256=list("12945"))  # the second image of class a
    one, same, other = (predictions.anonymize(frame)["path"] for frame in (contents, renamed, replaced))
    assert one.equals(same) and (one == other).tolist() == [False, False, True, True, True]


def test_a_pack_of_another_manifest_and_a_model_of_another_pack_are_rejected(project):
    file = manifest(project, ["a"])
    pack = f"{file_io.sha256(file)}-32"
    predictions.require_same_data(file, pack, project / "m.safetensors", pack)
    with pytest.raises(UserError, match="m.safetensors: was trained on another pack.*dvc checkout"):
        predictions.require_same_data(file, pack, project / "m.safetensors", f"{'0' * 64}-32")
    file.write_text(file.read_text().replace("0" * 64, "1" * 64))  # same path and class, another photo
    with pytest.raises(UserError, match="manifest.csv: its images are not those of the pack.*dvc checkout"):
        predictions.require_same_data(file, pack, project / "m.safetensors", pack)


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"class,images,correct\na,b,12\n", b"class,images\na,b\n", b"\xff\xfe"]
)
def test_other_content_is_rejected(content):
    with pytest.raises(ValueError):
        predictions.parse_correct(content)


@pytest.mark.parametrize("name", ["another class", "None"])
def test_an_incorrect_prediction_is_no_class(name):
    content = f"class,images,correct\n{name},abc,01\n".encode()
    parsed = predictions.parse_correct(content)
    assert (parsed["class"] == parsed["class_1"]).tolist() == [False, True]
