"""Training images whose label a solution without them doubts."""

import csv
import json
from pathlib import Path

import narrow_resnet
import numpy as np
import pytest
import torch
from params_file import write_params
from tensor_rows import TensorRows

import evaluate
import train
from finegrain.core import file_io, paths
from finegrain.evaluation import leave_one_out
from finegrain.evaluation.leave_one_out import LeaveOneOutPredictions
from finegrain.ridge import regression
from finegrain.ridge.solve_head import SolvedHead
from finegrain.ridge.strength import choose_strength, class_weights
from finegrain.training import run
from finegrain.training.history import TrainingHistory

NAMES = ["cat", "dog", "owl"]


def predictions(label_probability: list[float]) -> LeaveOneOutPredictions:
    """Predictions whose second class is the numbers' order, to recognize them."""
    n = len(label_probability)
    return LeaveOneOutPredictions(
        np.array(label_probability), np.arange(n) % 3, 1 - np.array(label_probability) / 2
    )


@pytest.fixture
def manifest(tmp_path) -> Path:
    """Images of all splits, mixed, with the columns of stage split and a class that looks like a number."""
    rows = [
        (f"{split}-{i}.jpg", ("007", "dog")[i % 2], split, i)
        for i in range(30)
        for split in ("val", "test", "train")
    ]
    file_io.write_csv(tmp_path / "manifest.csv", ("path", "class", "split", "width"), rows)
    return tmp_path / "manifest.csv"


def test_the_most_doubtful_are_first_with_their_own_path_and_class(manifest):
    found = predictions([(7 * i + 3) % 30 / 30 for i in range(30)])
    rows = leave_one_out.doubtful_rows(found, manifest, ("train",), NAMES)
    assert len(rows) == leave_one_out.LISTED_AT_LEAST
    assert [row[2] for row in rows] == pytest.approx([i / 30 for i in range(20)], abs=1e-6)
    for path, label, probability, predicted, top in rows:
        split, _, number = path.removesuffix(".jpg").partition("-")
        i = int(number)
        assert split == "train" and (7 * i + 3) % 30 == round(probability * 30)
        assert label == ("007", "dog")[i % 2] and predicted == NAMES[i % 3]
        assert top == pytest.approx(1 - probability / 2, abs=1e-6)


def test_a_refit_s_images_are_train_then_val(manifest):
    found = predictions([0.9] * 60)
    found.label_probability[[4, 30 + 5]] = 0.2, 0.1
    rows = leave_one_out.doubtful_rows(found, manifest, ("train", "val"), NAMES)
    assert [row[0] for row in rows[:3]] == ["val-5.jpg", "train-4.jpg", "train-0.jpg"]  # equals in order


@pytest.mark.parametrize(("images", "listed"), [(7, 7), (20, 20), (150, 20), (400, 40), (405, 40)])
def test_a_tenth_is_listed_and_twenty_at_least(images, listed):
    assert len(predictions([0.5] * images).doubtful()) == listed


def test_nothing_is_listed_where_no_phase_was_solved(project, manifest):
    files = paths.Run("d", "resnet18", 0)
    run.write_leave_one_out(files, TrainingHistory())
    assert leave_one_out.read_leave_one_out(files.leave_one_out) is None
    assert leave_one_out.doubtful_rows(None, manifest, ("train",), NAMES) == []


@pytest.mark.parametrize("images", [30, 90], ids=["dual", "primal"])
def test_a_wrong_label_is_first_in_the_list(project, images):
    """From the solution to the table: classes that are far apart, and one image labeled as another."""
    torch.manual_seed(0)
    truth = torch.arange(images) % 3
    rows = TensorRows(4 * torch.eye(3, 40)[truth] + 0.5 * torch.randn(images, 40))
    labels = truth.clone()
    labels[11] = 0  # of class 2
    problem = regression.regression(rows, labels, 3, class_weights(labels, 3, "none"))
    tried = choose_strength(problem, rows.features.square().sum(1).mean().item())
    solution, history = problem.solve(tried[-1].strength), TrainingHistory()
    head = SolvedHead(solution.weight, solution.bias, tried[-1], {}, None)
    history.add_solved("solve", head, labels)
    files = paths.Run("d", "resnet18", 0)
    run.write_leave_one_out(files, history)
    found = leave_one_out.read_leave_one_out(files.leave_one_out)
    assert found is not None and len(found) == images
    table = [(f"{i}.jpg", NAMES[label], "train") for i, label in enumerate(labels.tolist())]
    file_io.write_csv(Path("manifest.csv"), ("path", "class", "split"), table)
    listed = leave_one_out.doubtful_rows(found, Path("manifest.csv"), ("train",), NAMES)
    file_io.write_csv(files.doubtful_labels, leave_one_out.COLUMNS, listed)
    with files.doubtful_labels.open(newline="") as stream:
        first, second, *_ = csv.DictReader(stream)
    assert (first["path"], first["class"], first["predicted"]) == ("11.jpg", "cat", "owl")
    assert float(first["label_probability"]) < 0.2 and float(first["predicted_probability"]) > 0.6
    assert float(second["label_probability"]) > float(first["label_probability"]) + 0.2


@pytest.mark.parametrize("refit", [False, True])
def test_stage_evaluate_lists_and_shows_them(project, tiny_pack, monkeypatch, refit):
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")
    labels = np.load(tiny_pack / "train_labels.npy")
    labels[8] = 0  # an image of class plain, labeled as bars
    np.save(tiny_pack / "train_labels.npy", labels)
    names = json.loads((tiny_pack / "pack.json").read_text())["classes"]
    table = [
        (f"{split}/{i}.png", names[label], split, f"{split}{i}")
        for split in ("test", "train", "val")
        for i, label in enumerate(np.load(tiny_pack / f"{split}_labels.npy"))
    ]
    manifest, metadata = tiny_pack.parent / "manifest.csv", tiny_pack / "pack.json"
    file_io.write_csv(manifest, ("path", "class", "split", "sha256"), table)
    described = json.loads(metadata.read_text()) | {"manifest_sha256": file_io.sha256(manifest)}
    metadata.write_text(json.dumps(described))
    changes = {"phases": {"solve": {"solve": "ridge", "image_size": 32}}, "refit": refit}
    head = {"pool": "covariance", "stage": ["layer1", "layer2"]}
    write_params(
        project, **changes, head=head, dataset__name="tiny", pack__image_size=32, models=["resnet18"]
    )
    for stage in (train, evaluate):
        stage.main(["--model", "resnet18", "--seed", "0"])
    files = paths.Run("tiny", "resnet18", 0)
    with files.doubtful_labels.open(newline="") as stream:
        listed = list(csv.DictReader(stream))
    assert len(listed) == 20 and {row["path"].split("/")[0] for row in listed} == (
        {"train", "val"} if refit else {"train"}
    )
    classes = {path: name for path, name, *_ in table}
    assert all(classes[row["path"]] == row["class"] for row in listed)
    assert (listed[0]["path"], listed[0]["class"], listed[0]["predicted"]) == ("train/8.png", "bars", "plain")
    shown = json.loads(files.gallery.read_text())["doubtful"]
    assert [tile["truth"] for tile in shown] == [row["class"] for row in listed[: len(shown)]]
    assert [tile["predicted"] for tile in shown] == [row["predicted"] for row in listed[: len(shown)]]
    metadata = json.loads(files.sidecar.read_text())
    assert metadata["leave_one_out"]["images"] == (57 if refit else 42)
