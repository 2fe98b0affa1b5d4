"""A photo that is not square gives the same logits wherever it is decoded, whatever ``pack.fit`` says."""

import csv
import json
import re
from pathlib import Path
from typing import get_args

import bare_python
import drawn
import narrow_resnet
import numpy as np
import pytest
import torch
from params_file import write_params
from untrained import save_untrained

import download
import evaluate
import pack
import split
from finegrain import cli
from finegrain.core import paths
from finegrain.core.errors import UserError
from finegrain.dataset import decoding
from finegrain.export import model_folder, onnx_graph
from finegrain.loading import batches
from finegrain.models import inference
from finegrain.serving import demo, predict
from finegrain.serving.inputs import Photo
from finegrain.serving.predictor import Predictor

CPU = torch.device("cpu")
SIZE = 32
PHOTO = drawn.encode(drawn.pattern(5, 640, 250), "JPEG", quality=95)  # decoded at half of its size
RUN, TOY = paths.Run("toy", "resnet18", 0), paths.Dataset("toy")
TOLERANCE = 1e-4


def packed_split(fit: str, name: str) -> batches.PackedSplit:
    """Run the data stages with this fit; returns a split."""
    write_params(
        Path(),
        dataset={"name": "toy", "source": "archive", "path": "photos.zip"},
        split={"val_ratio": 0.2, "test_ratio": 0.2},
        pack={"image_size": SIZE, "fit": fit},
        models=["resnet18"],
        device="cpu",
    )
    for stage in (download, split, pack):
        stage.main([])
    return batches.PackedSplit(TOY.pack, name, CPU, [0.5] * 3, [0.2] * 3)


@pytest.fixture
def photos(project, monkeypatch) -> Path:
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")
    drawn.zip_file(project / "photos.zip", drawn.classes({"a": 6, "b": 6}) | {"b/photo.jpg": PHOTO})
    (project / "photo.jpg").write_bytes(PHOTO)
    return project


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    powers = np.exp(logits / temperature)
    return powers / powers.sum()


@pytest.mark.slow
def test_pack_predict_predictor_demo_and_exported_code_agree(photos, monkeypatch, capsys):
    """The graph sees pixels only, so it is the same for all fits and is written once."""
    graphs: list[bytes] = []
    write_onnx = onnx_graph.write_onnx

    def write_once(file: Path, *arguments: object) -> None:
        if not graphs:
            write_onnx(file, *arguments)
            graphs.append(file.read_bytes())
        file.write_bytes(graphs[0])

    monkeypatch.setattr(onnx_graph, "write_onnx", write_once)
    found: list[np.ndarray] = []
    for fit in get_args(decoding.Fit):
        part, row = "train", -1
        while row < 0:  # the split that the photo has come to
            packed = packed_split(fit, part)
            with TOY.manifest.open(newline="") as stream:
                names = [line["path"] for line in csv.DictReader(stream) if line["split"] == part]
            row = names.index("b/photo.jpg") if "b/photo.jpg" in names else -1
            part = "val" if part == "train" else "test"
        save_untrained(
            RUN.weights, RUN.sidecar, ["a", "b"], pack_image_size=SIZE, pack_fit=packed.fit,
            data=packed.fingerprint,
        )  # fmt: skip
        predictor = Predictor(RUN.weights, RUN.sidecar, CPU, torch.float32, None, False)
        expected, _ = inference.predict_split(predictor._net, packed, SIZE, torch.float32)
        expected = expected[row].double().numpy()
        ((_, logits),) = predictor.logits([(Photo("photo", "photo"), PHOTO)], [])
        assert logits == pytest.approx(expected, abs=TOLERANCE)

        chances = dict(zip("ab", probabilities(expected, predictor.temperature), strict=True))
        words = f"predict photo.jpg --model {RUN.weights} --format jsonl --precision fp32".split()
        capsys.readouterr()
        assert predict.run(cli.build_parser().parse_args(words)) == 0
        printed = json.loads(capsys.readouterr().out)["top"]
        assert {each["class"]: each["probability"] for each in printed} == pytest.approx(
            chances, abs=TOLERANCE
        )
        shown = demo.classify_photo(predictor, PHOTO)
        assert shown.top == pytest.approx(chances, abs=TOLERANCE)
        seen = predictor.gradcam_overlay(PHOTO, "a")[0]
        assert np.array_equal(seen, packed.images(torch.tensor([row]))[0])

        words = f"export --model {RUN.weights} --check photo.jpg --out {fit}".split()
        assert model_folder.run(cli.build_parser().parse_args(words)) == 0
        folder = drawn.tree(photos / fit, {"photo.jpg": PHOTO})
        _, snippet = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
        out = bare_python.run(folder, f"{snippet}\nimport json; print(json.dumps(logits[0].tolist()))")
        assert json.loads(out.splitlines()[-1]) == pytest.approx(expected, abs=TOLERANCE)
        crop_mode = json.loads((folder / "config.json").read_text())["pretrained_cfg"]["crop_mode"]
        assert crop_mode == {"squash": "squash", "crop": "center", "letterbox": "border"}[fit]
        assert Predictor.from_pretrained(folder, precision="fp32")("photo.jpg") == predictor("photo.jpg")
        found.append(expected)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(found[one] - found[other]).max() > 10 * TOLERANCE


@pytest.mark.slow
def test_a_model_is_not_evaluated_on_a_pack_of_another_fit(photos):
    squashed = packed_split("squash", "test")
    save_untrained(RUN.weights, RUN.sidecar, ["a", "b"], pack_image_size=SIZE, data=squashed.fingerprint)
    metadata = json.loads((TOY.pack / "pack.json").read_text())
    del metadata["fit"]  # as packs from before there were fits
    assert batches.pack_fingerprint(metadata) == squashed.fingerprint
    others = {packed_split(fit, "test").fingerprint for fit in ("crop", "letterbox")}
    assert len(others | {squashed.fingerprint}) == 3
    with pytest.raises(UserError, match="trained on another pack"):
        evaluate.main(["--model", "resnet18", "--seed", "0"])
