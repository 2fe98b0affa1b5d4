"""Images whose label is improbable by predictions that were made without them."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import narrow_resnet
import numpy as np
import pytest
import torch
from params_file import write_params
from tensor_rows import TensorRows

import evaluate
import train
from finegrain.core import file_io, paths
from finegrain.evaluation import doubtful_labels, gallery
from finegrain.evaluation.doubtful_labels import DoubtfulLabel, HeldOutPredictions
from finegrain.loading.class_weights import image_weights
from finegrain.models import outputs
from finegrain.ridge import regression
from finegrain.ridge.solve_head import SolvedHead
from finegrain.ridge.strength import choose_strength
from finegrain.training import run
from finegrain.training.history import TrainingHistory

NAMES = ["007", "dog", "owl"]


def predictions(label_probability: list[float]) -> HeldOutPredictions:
    """Predictions whose most probable class encodes the image's position."""
    n = len(label_probability)
    return HeldOutPredictions(
        np.array(label_probability), np.arange(n) % 3, 1 - np.array(label_probability) / 2
    )


def listed(manifest: Path, *found: tuple[list[str], HeldOutPredictions]) -> list[DoubtfulLabel]:
    return doubtful_labels.find_doubtful(manifest, NAMES, found)


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
    labels = listed(manifest, (["train"], predictions([(7 * i + 3) % 30 / 30 for i in range(30)])))
    assert [label.label_probability for label in labels] == pytest.approx([i / 30 for i in range(20)])
    for label in labels:
        i = label.row
        assert label.path == f"train-{i}.jpg" and label.split == "train"
        assert (7 * i + 3) % 30 == round(label.label_probability * 30)
        assert label.label == ("007", "dog")[i % 2] and label.predicted == NAMES[i % 3]
        assert label.probability == pytest.approx(1 - label.label_probability / 2)


def test_splits_follow_each_other_as_the_predictions_do(manifest):
    found = predictions([0.9] * 60)
    found.label_probability[[4, 30 + 5]] = 0.2, 0.1
    labels = listed(manifest, (["train", "val"], found))
    assert [label.path for label in labels[:3]] == ["val-5.jpg", "train-4.jpg", "train-0.jpg"]
    assert [(label.split, label.row) for label in labels[:2]] == [("val", 5), ("train", 4)]


def test_a_share_of_each_kind_of_prediction_is_listed(manifest):
    """Leave-one-out after fine-tuning is more confident than the prediction of a test image."""
    found = (["train"], predictions([0.9] * 30)), (["val", "test"], predictions([0.1] * 60))
    assert [label.split for label in listed(manifest, *found)].count("train") == 20


@pytest.mark.parametrize(("images", "count"), [(7, 7), (20, 20), (150, 20), (400, 40), (405, 40)])
def test_a_tenth_is_listed_and_twenty_at_least(images, count):
    assert len(predictions([0.5] * images).doubtful()) == count


def test_a_label_is_suspect_where_another_class_is_as_probable_as_on_its_own_images():
    """The confident joint of the paper, counted image by image."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    logits = 2 * np.eye(3)[rng.integers(0, 3, 500)] + rng.normal(size=(500, 3)) + np.eye(3)[labels]
    probability = np.exp(outputs.log_softmax(logits))
    raw = outputs.from_logits(logits.astype(np.float32), labels)
    found = doubtful_labels.held_out([raw]).suspect(labels, 3)
    average = [probability[labels == c, c].mean() for c in range(3)]
    for i in range(500):
        top = probability[i].argmax()
        assert found[i] == (top != labels[i] and probability[i, top] >= average[top])
    assert 20 < found.sum() < 400


def test_a_sure_prediction_counts_though_others_are_surer_still():
    found = HeldOutPredictions(
        np.array([0.99, 0.99, 0.05]), np.array([1, 1, 1]), np.array([0.99, 0.99, 0.95])
    )
    assert found.suspect(np.array([1, 1, 0]), 2).tolist() == [False, False, True]


def test_a_class_without_an_image_is_no_error():
    found = HeldOutPredictions(np.array([0.1, 0.8]), np.array([2, 1]), np.array([0.9, 0.8]))
    assert found.suspect(np.array([1, 1]), 3).tolist() == [True, False]


def test_nothing_is_read_where_no_phase_was_solved(project):
    files = paths.Run("d", "resnet18", 0)
    run.write_leave_one_out(files, TrainingHistory())
    assert doubtful_labels.read_leave_one_out(files.leave_one_out) is None


@pytest.mark.parametrize("images", [30, 90], ids=["dual", "primal"])
def test_a_wrong_label_is_first_in_the_list(project, images):
    """From the solution to the table: classes that are far apart, and one image labeled as another."""
    torch.manual_seed(0)
    truth = torch.arange(images) % 3
    rows = TensorRows(4 * torch.eye(3, 40)[truth] + 0.5 * torch.randn(images, 40))
    labels = truth.clone()
    labels[11] = 0  # of class 2
    problem = regression.regression(rows, labels, 3, image_weights(labels, 3, "none"))
    best, tried = choose_strength(problem, rows.features.square().sum(1).mean().item())
    solution, history = problem.solve(best.strength), TrainingHistory()
    head = SolvedHead(solution.weight, solution.bias, best, tried, None)
    history.add_solved("solve", head, labels)
    files = paths.Run("d", "resnet18", 0)
    run.write_leave_one_out(files, history)
    found = doubtful_labels.read_leave_one_out(files.leave_one_out)
    assert found is not None and len(found) == images
    table = [(f"{i}.jpg", NAMES[label], "train") for i, label in enumerate(labels.tolist())]
    file_io.write_csv(Path("manifest.csv"), ("path", "class", "split"), table)
    first, second, *_ = listed(Path("manifest.csv"), (["train"], found))
    assert (first.path, first.label, first.predicted) == ("11.jpg", "007", "owl")
    assert first.label_probability < 0.2 and first.probability > 0.6 and first.suspect
    assert second.label_probability > first.label_probability + 0.2


@pytest.fixture
def labeled_pack(tiny_pack, monkeypatch) -> dict[str, str]:
    """``tiny_pack`` with a wrong label in train and in test, and its manifest; the class of each path."""
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")
    for split, wrong in (("train", 8), ("test", 5)):  # images of class plain, labeled as bars
        labels = np.load(tiny_pack / f"{split}_labels.npy")
        labels[wrong] = 0
        np.save(tiny_pack / f"{split}_labels.npy", labels)
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
    return {path: name for path, name, *_ in table}


def evaluated(project: Path, **changes: Any) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """The table and the tiles that stage evaluate writes after a training with these parameters."""
    write_params(project, **changes, dataset__name="tiny", pack__image_size=32, models=["resnet18"])
    for stage in (train, evaluate):
        stage.main(["--model", "resnet18", "--seed", "0"])
    files = paths.Run("tiny", "resnet18", 0)
    with files.doubtful_labels.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return rows, json.loads(files.gallery.read_text())["doubtful"]


@pytest.mark.parametrize("refit", [False, True])
def test_stage_evaluate_lists_and_shows_them(project, labeled_pack, refit):
    changes = {"phases": {"solve": {"solve": "ridge", "image_size": 32}}, "refit": refit}
    head = {"pool": "covariance", "stage": ["layer1", "layer2"]}
    rows, shown = evaluated(project, **changes, head=head)
    counts = Counter(row["split"] for row in rows)
    assert sum(counts.values()) == (38 if refit else 40)  # twenty of train, and of the 18 or 33 others
    assert counts["test"] == (18 if refit else 20 - counts["val"])
    assert all(labeled_pack[row["path"]] == row["label"] and row["action"] == "" for row in rows)
    first = {row["path"]: row for row in rows[:4]}
    for path in ("train/8.png", "test/5.png"):
        assert (first[path]["label"], first[path]["class"]) == ("bars", "plain")
        assert first[path]["suspect"] == "yes"
    otherwise = [row["path"] for row in rows if row["class"] != row["label"]]
    assert [tile["path"] for tile in shown] == otherwise[: gallery.DOUBTFUL_IMAGES]
    sidecar = paths.Run("tiny", "resnet18", 0).sidecar
    assert json.loads(sidecar.read_text())["leave_one_out"]["images"] == (57 if refit else 42)
    for tile in shown:
        image = np.load(f"data/tiny/pack/{tile['split']}.npy")[tile["row"]]
        assert tile["image"] == gallery.jpeg_data_uri(image)


def test_without_a_solved_head_validation_and_test_images_are_listed(project, labeled_pack):
    rows, shown = evaluated(project, phases__all__epochs=20, phases__all__image_size=32, lr=0.01)
    assert {row["split"] for row in rows} == {"val", "test"} and len(rows) == 20
    assert (rows[0]["path"], rows[0]["label"], rows[0]["class"]) == ("test/5.png", "bars", "plain")
    probabilities = [float(row["label_probability"]) for row in rows]
    assert probabilities == sorted(probabilities) and [tile["path"] for tile in shown] == ["test/5.png"]
