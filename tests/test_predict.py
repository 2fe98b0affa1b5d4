"""Predicting photos gives evaluate's own logits, says what it skipped, and measures against a CSV."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import drawn
import numpy as np
import pandas as pd
import pytest
import torch
from params_file import write_params
from pipeline import ROOT
from test_stages import SMALL

import download
import evaluate
import pack
import split
import train
from finegrain import cli
from finegrain.core.errors import UserError
from finegrain.loading import batches
from finegrain.models import inference, storage
from finegrain.serving import find_model, inputs, predict
from finegrain.serving.labels import Labels
from finegrain.serving.predictor import Predictor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a trained model, its predictions, and the test photos as files."""
    folder = tmp_path_factory.mktemp("trained")
    small = {**SMALL, "models": ["resnet18"], "dataset__images_per_class": 40}
    write_params(folder, **{**small, "split__test_ratio": 0.3})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage, argv in ((download, []), (split, []), (pack, [])):
            stage.main(argv)
        for stage in (train, evaluate):
            stage.main(["--model", "resnet18", "--seed", "0"])
    (folder / "reports").mkdir(exist_ok=True)
    (folder / "reports/leaderboard.json").write_text(
        '{"winner": "resnet18", "models": {"resnet18": {"run": "resnet18-0"}}}'
    )
    with zipfile.ZipFile(folder / "data/sample/archive/sample.zip") as packed_:
        rows = pd.read_csv(folder / "data/sample/manifest.csv")
        for path in rows[rows["split"] == "test"]["path"]:
            packed_.extract(path, folder / "photos")
    return folder


@pytest.fixture
def project(trained, monkeypatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def run(*words: str) -> int:
    return predict.run(cli.build_parser().parse_args(["predict", *map(str, words)]))


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
def test_it_gives_the_logits_that_evaluate_computed(project):
    rows = pd.read_csv("data/sample/manifest.csv")
    test = rows[rows["split"] == "test"]["path"].tolist()
    weights, sidecar = find_model.find_model(None)
    predictor = Predictor(weights, sidecar, CPU, False, None, False)
    items = [(inputs.Photo(path, path), Path("photos", path).read_bytes()) for path in test]
    skipped: list[tuple[str, str]] = []
    found = list(predictor.logits(items, skipped))
    assert [photo.inner for photo, _ in found] == test and not skipped
    net, facts = storage.load_model(weights, sidecar)
    whole = batches.PackedSplit(Path("data/sample/pack"), "test", CPU, facts["mean"], facts["std"])
    logits, _ = inference.predict_split(net, whole, facts["image_size"], bf16=False)
    assert len(test) > inference.BATCH_SIZE
    assert np.array_equal(np.stack([row for _, row in found]), logits.double().numpy())


@pytest.mark.slow
@pytest.mark.parametrize("in_between", [True, False])
def test_bad_photos_leave_the_batches_of_the_good_ones_as_they_are(project, monkeypatch, in_between):
    """So that the logits stay evaluate's: on the CPU and on a GPU, where photos are decoded further ahead."""
    monkeypatch.setattr(inference, "BATCH_SIZE", 4)
    predictor = Predictor(*find_model.find_model(None), CPU, False, None, False)
    if not in_between:
        predictor._device = torch.device("cuda")  # only where it decodes: nothing is asked
    data = next(Path("photos").rglob("*.jpg")).read_bytes()
    bad = {0, 5, 6, 7, 8, 9, 12}
    items = [
        (inputs.Photo(str(n), str(n)), "locked" if n == 5 else b"" if n in bad else data) for n in range(15)
    ]
    skipped: list[tuple[str, str]] = []
    batches = list(predictor.batches(iter(items), skipped))
    assert [[photo.name for photo, _ in batch] for batch in batches] == [
        ["1", "2", "3", "4"],
        ["10", "11", "13", "14"],
    ]
    assert [name for name, _ in skipped] == [str(n) for n in sorted(bad)]
    assert dict(skipped)["5"] == "locked" and dict(skipped)["6"] == "not an image: empty file"


@pytest.mark.slow
def test_its_answers_are_the_kept_predictions(project, capsys):
    assert run("photos", "--format", "csv", "--precision", "auto") == 0
    kept = pd.read_parquet("data/sample/predictions/resnet18-0.parquet").set_index("path")
    got = {Path(row["image"]).relative_to("photos").as_posix(): row for row in table(capsys.readouterr().out)}
    assert got.keys() == set(kept.index)
    for path, row in got.items():
        assert row["class_1"] == kept.loc[path, "class_1"]
        assert float(row["p_1"]) == pytest.approx(kept.loc[path, "confidence"], abs=0.02)  # batches differ


@pytest.mark.slow
def test_a_csv_of_labels_measures_accuracy(project, capsys):
    rows = pd.read_csv("data/sample/manifest.csv")
    some = rows[rows["split"] == "test"].iloc[::3]
    some[["path", "class"]].set_axis(["file", "make"], axis=1).to_csv("labels.csv", index=False)
    words = [
        "photos",
        "--csv",
        "labels.csv",
        "--image-col",
        "file",
        "--label-col",
        "make",
        "--format",
        "jsonl",
    ]
    assert run(*words) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert len(lines) == len(some) and all(len(line["top"]) == 5 for line in lines)
    right = sum(line["correct"] for line in lines)
    kept = pd.read_parquet("data/sample/predictions/resnet18-0.parquet").set_index("path").loc[some["path"]]
    assert abs(right - (kept["class"] == kept["class_1"]).sum()) <= 1
    assert f"top-1 {right / len(some):.2%}" in captured.err and f"of {len(some)} photos" in captured.err


@pytest.mark.slow
def test_bad_photos_are_told_and_skipped_and_the_exit_status_says_so(project, capsys, tmp_path):
    good = next(Path("photos").rglob("*.jpg")).read_bytes()
    drawn.tree(tmp_path / "mixed", {"a.jpg": good, "b.jpg": b"<html>", "c.png": b"", "notes.txt": b"-"})
    assert run(tmp_path / "mixed", "--out", tmp_path / "out.csv", "--format", "csv", "--top", "3") == 1
    said = capsys.readouterr()
    assert "b.jpg: not an image: a web page" in said.err and "c.png: not an image: empty file" in said.err
    assert said.out == ""
    (row,) = table((tmp_path / "out.csv").read_text())
    assert row["image"].endswith("a.jpg") and set(row) == {
        "image", "class_1", "p_1", "class_2", "p_2", "class_3", "p_3", "label", "correct"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["some.zip", "some.tar.gz"])
def test_a_damaged_member_of_an_archive_is_told_and_skipped(project, capsys, tmp_path, name):
    files = sorted(Path("photos").rglob("*.jpg"))[:6]
    content = {f"{n}.jpg": file.read_bytes() for n, file in enumerate(files)}
    if name == "some.zip":
        archive = drawn.zip_file(tmp_path / name, content)
        archive.write_bytes(archive.read_bytes().replace(content["2.jpg"][-40:-20], bytes(20), 1))
        good, told = [0, 1, 3, 4, 5], f"skipped: {archive}:2.jpg: is damaged (Bad CRC-32"
    else:
        archive = drawn.tar_file(tmp_path / name, content)
        archive.write_bytes(archive.read_bytes()[: sum(map(len, content.values())) // 2])
        good, told = [0, 1], f"skipped: {archive}: not a readable tar ("
    assert run(archive, "--format", "csv") == 1
    said = capsys.readouterr()
    names = [row["image"] for row in table(said.out)]
    assert names[: len(good)] == [f"{archive}:{n}.jpg" for n in good] and len(names) < 6
    assert told in said.err


@pytest.mark.slow
def test_the_project_s_models_are_asked_as_evaluate_asks_them_others_plainly(project, capsys):
    def probabilities(*options: str) -> list[str]:
        assert run("photos", "--format", "csv", "--top", "1", *options) == 0
        return [row["p_1"] for row in table(capsys.readouterr().out)]

    plain, flipped = probabilities("--no-flip"), probabilities("--flip")
    smaller = probabilities("--flip", "--image-size", "64")
    assert len({tuple(each) for each in (plain, flipped, smaller)}) == 3
    assert probabilities() == plain
    settings = Path("params.yaml").read_text()
    try:
        asked = {"evaluate__flip": True, "evaluate__image_size": 64}
        small = {**SMALL, "models": ["resnet18"], "dataset__images_per_class": 40}
        write_params(project, **small, **asked)
        assert probabilities() == smaller
        assert probabilities("--image-size", "32", "--no-flip") == plain
        assert probabilities("--model", "models/sample/resnet18-0.safetensors") == plain
    finally:
        Path("params.yaml").write_text(settings)


def test_device_and_precision_are_the_project_s_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, evaluate__flip=True, device="cpu", precision="fp32")
    assert find_model.evaluation_settings("resnet18") == {
        "flip": True, "image_size": None, "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    assert find_model.evaluation_settings("elsewhere/net.safetensors") == {
        "flip": False, "image_size": None, "device": "auto", "precision": "auto",
    }  # fmt: skip


@pytest.mark.slow
def test_an_archive_and_a_glob_give_what_the_files_give(project, capsys, tmp_path):
    files = sorted(Path("photos").rglob("*.jpg"))[:5]
    content = {f"{n}.jpg": file.read_bytes() for n, file in enumerate(files)}
    drawn.zip_file(tmp_path / "some.zip", content)
    drawn.tar_file(tmp_path / "some.tar.gz", content)
    drawn.tree(tmp_path / "loose", content)
    answers = []
    for source in ("some.zip", "some.tar.gz", "loose", "loose/*.jpg"):
        assert run(tmp_path / source, "--format", "csv") == 0
        rows = table(capsys.readouterr().out)
        assert [row["image"][-5:] for row in rows] == [f"{n}.jpg" for n in range(5)]
        answers.append([{**row, "image": ""} for row in rows])
    assert all(each == answers[0] for each in answers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,class\na.jpg,Cat\n", r"has no column 'label' \(--label-col\); it has image, class"),
        ("image,label\na.jpg,Cat\na.jpg,Dog\n", "a.jpg stands there twice"),
        (
            "image,label\na.jpg,Kat\n",
            "1 labels are no classes .*, such as 'Kat'; did you mean 'Cat'",
        ),
        ("", "not a readable CSV"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(tmp_path, content, message):
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        Labels(tmp_path / "labels.csv", "image", "label", ["Cat", "Dog"])


def test_a_csv_names_photos_in_three_ways_with_a_byte_order_mark_and_backslashes(tmp_path):
    text = "image,label\r\nin/cat\\1.jpg,Cat\r\ndog/2.jpg,Dog\r\n3.jpg,Cat\r\n"
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    labels = Labels(tmp_path / "labels.csv", "image", "label", ["Cat", "Dog"])
    found = [inputs.Photo(f"in/{inner}", inner) for inner in ("cat/1.jpg", "dog/2.jpg", "x/3.jpg", "4.jpg")]
    assert [labels.of(photo) for photo in found] == ["Cat", "Dog", "Cat", None]


def test_a_csv_that_names_two_photos_at_once_is_refused_and_missing_ones_are_counted(tmp_path):
    (tmp_path / "labels.csv").write_text("image,label\nx.jpg,Cat\ny.jpg,Dog\n")
    labels = Labels(tmp_path / "labels.csv", "image", "label", ["Cat", "Dog"])
    one, other = (inputs.Photo(f"in/{inner}", inner) for inner in ("a/x.jpg", "b/x.jpg"))
    assert labels.missing([one]) == 1
    with pytest.raises(UserError, match=r"x.jpg may be in/a/x.jpg or in/b/x.jpg; write their paths there"):
        labels.missing([one, other])


def test_photos_of_any_name_are_found_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (b"caf\xe9.jpg", b"~$a.jpg", b"b.jpg"):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    found = inputs.find_photos(["~$a.jpg", ".", "*.jpg", str(Path("b.jpg"))])
    names = [(photo.name, data) for source in found for photo, data in source.read()]
    assert sorted(data for _, data in names) == [b"b.jpg", b"caf\xe9.jpg", b"~$a.jpg"]
    assert all(name.encode() for name, _ in names)  # it can be written


def test_a_model_s_name_is_no_training_s(project):
    shutil.copy("models/sample/resnet18-0.safetensors", "models/sample/resnet18.safetensors")
    assert find_model.find_model("resnet18") == find_model.find_model("resnet18-0")


def test_what_is_not_there_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "no*.jpg", "not found"), (tmp_path / "empty", "holds no image")):
        with pytest.raises(UserError, match=message):
            inputs.find_photos([str(path)])


@pytest.mark.slow
def test_a_reader_that_has_had_enough_is_no_error(project):
    command = f"{sys.executable} -m finegrain.cli predict photos --top 1 | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("photos/") and done.stdout.count("\n") == 1
    assert "Error" not in done.stderr
