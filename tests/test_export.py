"""An exported folder is complete and portable; its model card agrees with the project's files."""

import contextlib
import hashlib
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import bare_python
import drawn
import numpy as np
import onnx
import pytest
from camera_photos import PHOTOS
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from pipeline import ROOT
from trained_project import copy_trained_project

from finegrain import cli
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.export import model_card, model_folder, onnx_graph, output_folder
from finegrain.serving.predictor import Predictor

FILES = {
    "README.md",
    "config.json",
    "decoding.py",
    "labels.txt",
    "model.json",
    "model.onnx",
    "model.safetensors",
}
PHOTO = drawn.encode(drawn.pattern(5, 640, 400), "JPEG", quality=95)


def run(*words: object) -> int:
    return model_folder.run(cli.build_parser().parse_args(["export", *map(str, words)]))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A project with a trained and evaluated model, exported to ``exported/resnet18``."""
    project = copy_trained_project(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert run("--model", "resnet18-0", "--license", "cc-by-4.0") == 0
    return project


@pytest.fixture
def project(made, monkeypatch) -> Path:
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def run_files(project) -> paths.Run:
    return paths.Run("sample", "resnet18", 0)


@pytest.fixture
def own(project, tmp_path, monkeypatch) -> Path:
    """A copy of the exported folder, as the current one, with a photo beside its files."""
    shutil.copytree(project / "exported/resnet18", tmp_path / "own")
    (tmp_path / "own/photo.jpg").write_bytes(PHOTO)
    monkeypatch.chdir(tmp_path / "own")
    return tmp_path / "own"


def body(path: str | Path) -> str:
    return Path(path).read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.slow
def test_the_folder_is_complete(project, run_files):
    out = Path("exported/resnet18")
    assert {file.name for file in out.iterdir()} == FILES
    assert [entry.name for entry in out.parent.iterdir()] == ["resnet18"]  # nothing temporary is left
    assert (out / "model.safetensors").read_bytes() == run_files.weights.read_bytes()
    assert json.loads((out / "model.json").read_text()) == json.loads(run_files.sidecar.read_text())
    config, metadata = (json.loads((out / name).read_text()) for name in ("config.json", "model.json"))
    assert (out / "labels.txt").read_text().split("\n") == [*metadata["classes"], ""]
    assert config["label_names"] == metadata["classes"] and config["num_classes"] == 12
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32] and config["architecture"] == "resnet18"
    sums = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in FILES - {"config.json"}}
    assert config["finegrain"]["sha256"] == sums


@pytest.mark.slow
def test_no_file_contains_a_path_of_this_machine(project):
    for file in Path("exported/resnet18").iterdir():
        content = file.read_bytes()
        for place in (project, ROOT, sys.prefix, Path.home() / "x", Path(np.__file__).parents[1]):
            assert str(place).encode() not in content, file
        if file.suffix in (".md", ".txt", ".json"):
            assert not re.search(r"(^|[\s\"'(=`])[/~]\w", content.decode()), file


@pytest.mark.slow
def test_the_hub_s_metadata_has_the_project_s_results(project, run_files):
    card = ModelCard.load(Path("exported/resnet18/README.md"))
    assert card.data.license == "cc-by-4.0" and card.data.pipeline_tag == "image-classification"
    assert card.data.library_name == "finegrain" and card.data.datasets == ["sample"]
    assert {"onnx", "resnet18"} <= set(card.data.tags) and {"accuracy", "f1"} <= set(card.data.metrics)
    name, results = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == "resnet18"
    test = file_io.read_json(run_files.results)["test"]
    shown = {result.metric_name: result.metric_value for result in results}
    assert shown["top-1 accuracy"] == test["top1"] and shown["top-5 accuracy"] == test["top5"]
    assert shown["macro-F1"] == test["macro_f1"] and shown["cross-entropy loss"] == test["loss"]
    assert shown["expected calibration error, calibrated"] == test["calibrated_ece"]
    assert sorted(shown.values()) == sorted(test[metric.key] for metric in model_card.METRICS)
    source = file_io.read_json(paths.Dataset("sample").source)
    assert {(r.dataset_split, r.dataset_revision) for r in results} == {("test", source["sha256"])}


@pytest.mark.slow
def test_the_card_agrees_with_the_project_s_files(project, run_files):
    text = body("exported/resnet18/README.md")
    results, intervals = file_io.read_json(run_files.results), file_io.read_json(run_files.intervals)
    counts = file_io.read_json(paths.Dataset("sample").split_summary)
    low, high = intervals["top1"]
    assert f"| {results['test']['top1']:.2%} | {low:.1%} to {high:.1%} |".replace("%", " %") in text
    assert f"| {results['test']['loss']:.3f} | " in text
    assert f"{counts['images']['train']} train, {counts['images']['val']} validation" in text
    near, images = counts["test_images_with_near_duplicate"], counts["images"]["test"]
    assert f"- {near} of the {images} test images are near-duplicates" in text
    assert f"On {images} test images, at 32 pixels:" in text
    assert f"epoch {results['best_epoch']}, the best on validation" in text
    assert f"temperature {results['temperature']:.4g}," in text
    assert file_io.read_json(paths.Dataset("sample").source)["sha256"] in text
    assert f"in float32, on all {images} test images" in text and "trained from random weights." in text
    assert "license was not stated" not in text


@pytest.mark.slow
def test_the_card_s_code_sees_every_kind_of_photo_as_the_predictor_does(own):
    _, snippet = re.findall(r"```python\n(.*?)```", body("README.md"), re.S)
    drawn.tree(own, PHOTOS)
    each = f"for name in {list(PHOTOS)!r}:\n  print(name)\n  exec(code.replace('photo.jpg', name), {{}})\n"
    printed = iter(bare_python.run(own, f"code = {snippet!r}\n{each}").splitlines())
    predictor = Predictor.from_pretrained(own, precision="fp32")
    for name in PHOTOS:
        assert next(printed) == name
        exact = dict(predictor(own / name, top=12))
        found = [next(printed).split("% ") for _ in range(5)]
        # the card resizes whole bytes, the predictor fractions: half a point; wrong decoding costs ten
        assert all(float(p) == pytest.approx(100 * exact[label], abs=0.6) for p, label in found), name


@pytest.mark.slow
def test_the_python_snippets_of_the_card_run_and_agree(own):
    first, second = re.findall(r"```python\n(.*?)```", body("README.md"), re.S)
    printed = []
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(first, "README.md", "exec"), {})
    for text in (out.getvalue(), bare_python.run(own, second)):
        printed.append([line.split("% ") for line in text.splitlines()])
    predictor = Predictor.from_pretrained(own)
    assert printed[0] == [[f"{p:.1%}"[:-1], name] for name, p in predictor("photo.jpg")]
    exact = dict(Predictor.from_pretrained(own, precision="fp32")("photo.jpg", top=12))
    assert len(printed[1]) == 5 and float(printed[1][0][0]) == pytest.approx(
        100 * max(exact.values()), abs=0.3
    )
    assert all(float(p) == pytest.approx(100 * exact[name], abs=0.3) for p, name in printed[1])


@pytest.mark.slow
def test_the_card_of_a_model_from_elsewhere_names_what_is_not_known(own, capsys):
    """Its class names hold markup, its recipe a path of this machine, and its sidecar lacks keys."""
    metadata = json.loads(Path("model.json").read_text())
    metadata["classes"][:2] = ["a|b <script> *c*", "two\nlines\x85"]
    for key in ("environment", "revision", "best_epoch", "data", "initial_weights"):
        del metadata[key]
    metadata["recipe"] = {"weights": "/srv/models/first.pth", "head": metadata["recipe"]["head"]}
    Path("other.json").write_text(json.dumps(metadata))
    shutil.copy("model.safetensors", "other.safetensors")
    Path("bad.jpg").write_bytes(b"<html>")
    Path("good.png").write_bytes(drawn.png(1))
    assert run("--model", "other.safetensors", "--check", "good.png", "photo.jpg", "bad.jpg") == 0
    printed = capsys.readouterr().err
    assert "skipped: bad.jpg: not an image" in printed and "no test results" in printed
    out = Path("exported/other")
    text = body(out / "README.md")
    for words in (
        "**Not known.** No test results", "on 2 photos given for it", "the weights of the file first.pth",
        r"a\|b \<script\> \*c\*; two lines;", "revision: not recorded", "- Dataset: not recorded",
        "epoch of these weights was not recorded", "license was not stated",
    ):  # fmt: skip
        assert words in text, words
    data = ModelCard.load(out / "README.md").data
    assert data.eval_results is None and data.datasets is None and data.license == "unknown"
    assert (out / "labels.txt").read_text().splitlines()[1] == "two lines"
    assert "/srv" not in (out / "model.json").read_text()
    assert Predictor.from_pretrained(out).classes == metadata["classes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "results",
            {"temperature": 3.21},
            r"reports/sample/results/resnet18-0.json: .*models/sample/resnet18-0.safetensors",
        ),
        ("split", {"sha256": "0" * 64}, r"split.json: .*models/sample/resnet18-0.safetensors"),
    ],
)
def test_results_of_another_training_are_rejected(project, run_files, monkeypatch, file, changes, message):
    real, stale = (
        file_io.read_json,
        {"results": run_files.results, "split": paths.Dataset("sample").split_summary},
    )
    other = {stale[file]: real(stale[file]) | changes}
    monkeypatch.setattr(file_io, "read_json", lambda path: other.get(path) or real(path))
    with pytest.raises(UserError, match=message):
        run("--model", "resnet18-0", "--out", "elsewhere")
    assert not Path("elsewhere").exists()


@pytest.mark.slow
def test_a_graph_with_other_logits_is_not_exported_and_the_old_folder_stays(project, monkeypatch):
    before = {file.name: file.read_bytes() for file in Path("exported/resnet18").iterdir()}

    def damaged(file: Path, net: Any, metadata: dict[str, Any]) -> None:
        proto = onnx.load("exported/resnet18/model.onnx")
        (bias,) = [each for each in proto.graph.initializer if list(each.dims) == [12]]
        values = onnx.numpy_helper.to_array(bias) + np.float32(0.05)
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(proto, file)

    monkeypatch.setattr(onnx_graph, "write_onnx", damaged)
    with pytest.raises(UserError, match="logits differ from the network's by up to 0.05"):
        run("--model", "resnet18-0")
    assert {file.name: file.read_bytes() for file in Path("exported/resnet18").iterdir()} == before
    assert [entry.name for entry in Path("exported").iterdir()] == ["resnet18"]


@pytest.mark.slow
def test_a_folder_that_was_changed_after_its_export_is_not_replaced(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="own/photo.jpg: was not written by"):
        output_folder.require_replaceable(own)
    (own / "photo.jpg").unlink()
    output_folder.require_replaceable(own)
    with pytest.raises(UserError, match="own: is the folder of the model itself"):
        run("--model", own, "--out", own)
    with (own / "README.md").open("a") as card:
        card.write("My own words.\n")
    with pytest.raises(UserError, match="edited/README.md: was changed"):
        run("--model", own, "--out", shutil.copytree(own, tmp_path / "edited"))


def test_the_error_of_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"onnxscript.* not installed: `make app` .*'finegrain\[app\]'"):
        run()
    wanted = (ROOT / "requirements-app.txt").read_text()
    assert all(f"\n{name}==" in wanted for name in ("onnx", "onnxscript", "onnxruntime", "huggingface-hub"))


@pytest.mark.parametrize("text", ["Apache 2.0", "MIT\nx: 1", ""])
def test_a_license_that_is_no_identifier_of_the_hub_is_rejected(text, capsys):
    with pytest.raises(SystemExit):
        cli.build_parser().parse_args(["export", "--license", text])
    assert "such as apache-2.0" in capsys.readouterr().err
