"""The Predictor gives evaluate's own logits; loaded from a folder, it predicts what the command prints."""

import json
from pathlib import Path

import drawn
import numpy as np
import pandas as pd
import pytest
import torch
from trained_project import copy_trained_project
from untrained import save_untrained

from finegrain import cli
from finegrain.core import paths
from finegrain.dataset import decoding
from finegrain.loading import batches
from finegrain.models import inference, storage
from finegrain.serving import find_model, inputs, predict
from finegrain.serving.predictor import Predictor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A folder with the two files that finegrain loads, and a photo."""
    folder = tmp_path_factory.mktemp("exported")
    save_untrained(*paths.exported_model(folder), classes="abcdefg")
    (folder / "photo.png").write_bytes(drawn.png(3, 90, 60))
    return folder


@pytest.mark.slow
def test_it_gives_the_logits_that_evaluate_computed(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(copy_trained_project(tmp_path_factory))
    rows = pd.read_csv("data/sample/manifest.csv")
    test = rows[rows["split"] == "test"]["path"].tolist()
    weights, sidecar = find_model.find_model(None)
    predictor = Predictor(weights, sidecar, CPU, torch.float32, None, False)
    items = [(inputs.Photo(path, path), Path("photos", path).read_bytes()) for path in test]
    skipped: list[tuple[str, str]] = []
    found = list(predictor.logits(items, skipped))
    assert [photo.relative_path for photo, _ in found] == test and not skipped
    net, metadata = storage.load_model(weights, sidecar)
    packed = batches.PackedSplit(Path("data/sample/pack"), "test", CPU, metadata["mean"], metadata["std"])
    logits, _ = inference.predict_split(net, packed, metadata["image_size"], dtype=torch.float32)
    assert len(test) > inference.BATCH_SIZE
    assert np.array_equal(np.stack([row for _, row in found]), logits.double().numpy())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bad_photos_leave_the_batches_full(exported, monkeypatch, device):
    """The logits stay evaluate's, on the CPU and on a GPU, where photos are decoded further ahead."""
    monkeypatch.setattr(inference, "BATCH_SIZE", 4)
    predictor = Predictor(*paths.exported_model(exported), CPU, torch.float32, None, False)
    predictor._device = torch.device(device)  # only how it decodes: the network is not run
    data = (exported / "photo.png").read_bytes()
    bad = {0, 5, 6, 7, 8, 9, 12}
    items = [
        (inputs.Photo(str(n), str(n)), "locked" if n == 5 else b"" if n in bad else data) for n in range(15)
    ]
    skipped: list[tuple[str, str]] = []
    found = list(predictor.batches(iter(items), skipped))
    assert [[photo.name for photo, _ in batch] for batch in found] == [
        ["1", "2", "3", "4"],
        ["10", "11", "13", "14"],
    ]
    assert [name for name, _ in skipped] == [str(n) for n in sorted(bad)]
    assert dict(skipped)["5"] == "locked" and dict(skipped)["6"] == "not an image: empty file"


def test_from_pretrained_gives_the_command_s_logits_bit_for_bit(exported, tmp_path):
    drawn.tree(tmp_path, {f"{n}.png": drawn.png(n, 90 + n, 60) for n in range(70)})  # more than a batch
    items = list(inputs.find_photos([str(tmp_path)])[0].read())
    command = Predictor(*find_model.find_model(str(exported)), CPU, torch.bfloat16, None, False)
    loaded = Predictor.from_pretrained(str(exported), device="cpu", precision="bf16")
    expected, found = (np.stack([row for _, row in p.logits(items, [])]) for p in (command, loaded))
    assert expected.shape == (70, 7) and np.array_equal(expected, found) and np.ptp(expected) > 0.1


def test_a_call_gives_what_the_command_prints(exported, capsys):
    photo = exported / "photo.png"
    words = ["predict", str(photo), "--model", str(exported), "--format", "jsonl", "--top", "7"]
    assert predict.run(cli.build_parser().parse_args(words)) == 0
    printed = json.loads(capsys.readouterr().out)["top"]
    predictor = Predictor.from_pretrained(exported)
    top = predictor(photo, top=7)
    assert [(row["class"], row["probability"]) for row in printed] == top
    assert predictor(str(photo))[:5] == predictor(photo.read_bytes()) == top[:5]
    assert sum(p for _, p in top) == pytest.approx(1) and top == sorted(top, key=lambda each: -each[1])


def test_a_file_that_is_no_photo_raises(exported, tmp_path):
    predictor = Predictor.from_pretrained(exported)
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(decoding.BadImage, match=r"page.jpg: not an image: a web page"):
        predictor(tmp_path / "page.jpg")
    with pytest.raises(decoding.BadImage, match="photo: not an image: empty file"):
        predictor(b"")
    with pytest.raises(FileNotFoundError):
        predictor(tmp_path / "no.jpg")
