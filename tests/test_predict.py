"""The command `finegrain predict`: its formats, its accuracy by a CSV, and what it skips."""

import csv
import io
import json
import os
import signal
from pathlib import Path

import drawn
import fork_server
import pandas as pd
import pytest
from params_file import write_params
from trained_project import PARAMETERS, copy_trained_project

from finegrain import cli
from finegrain.serving import predict


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return copy_trained_project(tmp_path_factory)


@pytest.fixture
def project(trained, monkeypatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def run(*words: str) -> int:
    return predict.run(cli.build_parser().parse_args(["predict", *map(str, words)]))


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
def test_its_predictions_are_those_that_evaluate_stored(project, capsys):
    assert run("photos", "--format", "csv", "--precision", "auto") == 0
    stored = pd.read_parquet("data/sample/predictions/resnet18-0.parquet").set_index("path")
    rows = {
        Path(row["image"]).relative_to("photos").as_posix(): row for row in table(capsys.readouterr().out)
    }
    assert rows.keys() == set(stored.index)
    for path, row in rows.items():
        assert row["class_1"] == stored.loc[path, "class_1"]
        assert float(row["p_1"]) == pytest.approx(stored.loc[path, "confidence"], abs=0.02)  # batches differ


@pytest.mark.slow
def test_a_csv_of_labels_measures_accuracy(project, capsys):
    rows = pd.read_csv("data/sample/manifest.csv")
    some = rows[rows["split"] == "test"].iloc[::3]
    some[["path", "class"]].set_axis(["file", "make"], axis=1).to_csv("labels.csv", index=False)
    options = ["--csv", "labels.csv", "--image-col", "file", "--label-col", "make", "--format", "jsonl"]
    assert run("photos", *options) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert len(lines) == len(some) and all(len(line["top"]) == 5 for line in lines)
    correct = sum(line["correct"] for line in lines)
    stored = pd.read_parquet("data/sample/predictions/resnet18-0.parquet").set_index("path").loc[some["path"]]
    assert abs(correct - (stored["class"] == stored["class_1"]).sum()) <= 1
    in_top = sum(line["label"] in [row["class"] for row in line["top"]] for line in lines)
    assert f"top-1 {correct / len(some):.2%}" in captured.err and f"of {len(some)} photos" in captured.err
    assert f"top-5 {in_top / len(some):.2%}" in captured.err


@pytest.mark.slow
def test_images_of_the_csv_that_are_not_there_are_reported(project, capsys, tmp_path):
    classes = json.loads(Path("models/sample/resnet18-0.json").read_text())["classes"]
    (tmp_path / "labels.csv").write_text(f"image,label\nno.jpg,{classes[0]}\n")
    assert run("photos", "--csv", tmp_path / "labels.csv", "--format", "csv") == 1
    captured = capsys.readouterr()
    assert "labels.csv: 1 of its images were not found: no.jpg" in captured.err
    assert table(captured.out) == []


@pytest.mark.slow
def test_of_many_skipped_photos_the_first_are_named_and_all_are_counted(project, capsys, tmp_path):
    drawn.tree(tmp_path / "bad", {f"{number:03d}.jpg": b"<html>" for number in range(60)})
    assert run(tmp_path / "bad", "--format", "csv") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped: ")]
    assert len(lines) == 21 and "019.jpg: not an image" in lines[19]
    assert lines[20] == "skipped: 40 more, 60 in all"


@pytest.mark.slow
def test_bad_photos_are_skipped_and_reported_and_the_exit_status_is_1(project, capsys, tmp_path):
    good = next(Path("photos").rglob("*.jpg")).read_bytes()
    drawn.tree(tmp_path / "mixed", {"a.jpg": good, "b.jpg": b"<html>", "c.png": b"", "notes.txt": b"-"})
    assert run(tmp_path / "mixed", "--out", tmp_path / "out.csv", "--format", "csv", "--top", "3") == 1
    captured = capsys.readouterr()
    assert (
        "b.jpg: not an image: a web page" in captured.err
        and "c.png: not an image: empty file" in captured.err
    )
    assert captured.out == ""
    (row,) = table((tmp_path / "out.csv").read_text())
    assert row["image"].endswith("a.jpg") and set(row) == {
        "image", "class_1", "p_1", "class_2", "p_2", "class_3", "p_3", "unknown", "label", "correct"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["some.zip", "some.tar.gz"])
def test_a_damaged_member_of_an_archive_is_skipped_and_reported(project, capsys, tmp_path, name):
    files = sorted(Path("photos").rglob("*.jpg"))[:6]
    content = {f"{n}.jpg": file.read_bytes() for n, file in enumerate(files)}
    if name == "some.zip":
        archive = drawn.zip_file(tmp_path / name, content)
        archive.write_bytes(archive.read_bytes().replace(content["2.jpg"][-40:-20], bytes(20), 1))
        good, report = [0, 1, 3, 4, 5], f"skipped: {archive}:2.jpg: is damaged (Bad CRC-32"
    else:
        archive = drawn.tar_file(tmp_path / name, content)
        archive.write_bytes(archive.read_bytes()[: sum(map(len, content.values())) // 2])
        good, report = [0, 1], f"skipped: {archive}: not a readable tar ("
    assert run(archive, "--format", "csv") == 1
    captured = capsys.readouterr()
    names = [row["image"] for row in table(captured.out)]
    assert names[: len(good)] == [f"{archive}:{n}.jpg" for n in good] and len(names) < 6
    assert report in captured.err


@pytest.mark.slow
def test_the_project_s_models_get_evaluate_s_settings_and_weights_files_plain_ones(project, capsys):
    photos = next(Path("photos").rglob("*.jpg")).parent

    def probabilities(*options: str) -> list[str]:
        assert run(photos, "--format", "csv", "--top", "1", *options) == 0
        return [row["p_1"] for row in table(capsys.readouterr().out)]

    plain, flipped = probabilities("--no-flip"), probabilities("--flip")
    smaller = probabilities("--flip", "--image-size", "64")
    assert len({tuple(each) for each in (plain, flipped, smaller)}) == 3
    assert probabilities() == plain
    try:
        write_params(project, **PARAMETERS, evaluate__flip=True, evaluate__image_size=64)
        assert probabilities() == smaller
        assert probabilities("--image-size", "32", "--no-flip") == plain
        assert probabilities("--model", "models/sample/resnet18-0.safetensors") == plain
    finally:
        write_params(project, **PARAMETERS)


@pytest.mark.slow
def test_an_archive_and_a_glob_give_what_the_files_give(project, capsys, tmp_path):
    files = sorted(Path("photos").rglob("*.jpg"))[:5]
    content = {f"{n}.jpg": file.read_bytes() for n, file in enumerate(files)}
    drawn.zip_file(tmp_path / "some.zip", content)
    drawn.tar_file(tmp_path / "some.tar.gz", content)
    drawn.tree(tmp_path / "loose", content)
    found = []
    for source in ("some.zip", "some.tar.gz", "loose", "loose/*.jpg"):
        assert run(tmp_path / source, "--format", "csv") == 0
        rows = table(capsys.readouterr().out)
        assert [row["image"][-5:] for row in rows] == [f"{n}.jpg" for n in range(5)]
        found.append([{**row, "image": ""} for row in rows])
    assert all(each == found[0] for each in found)


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(project, tmp_path):
    pipe, errors, script = (tmp_path / name for name in ("pipe", "errors", "command.py"))
    os.mkfifo(pipe)
    script.write_text("from finegrain import cli\ncli.main()")
    command = fork_server.start(script, ["predict", "photos", "--top", "1"], project, pipe, errors=errors)
    with pipe.open() as reader:
        first = reader.readline()
    command.join(60)
    assert first.startswith("photos/") and command.exitcode in (0, 128 + signal.SIGPIPE)
    assert "Error" not in errors.read_text()
