"""DVC notices changed initial weights and trains the model that begins with them alone; stages are stubs."""

import json
import shutil
from pathlib import Path

import pytest
from clone import TINY, Clone
from params_file import write_params
from stub_stages import stages_run

import inputs
from finegrain.core.errors import UserError

pytestmark = pytest.mark.slow

TWO = TINY | {"models": ["resnet18", "resnet34"]}
COMMIT = "c" * 40


def trained(output: str) -> set[str]:
    """The models that a dvc command has trained."""
    return {stage.split("@")[1] for stage in stages_run(output) if stage.startswith("train@")}


def write_model(folder: Path, content: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(content)
    (folder / "model.json").write_text("{}")


@pytest.fixture
def clone(stubbed, tmp_path) -> Clone:
    """With a file and the folder of a trained model beside the project."""
    write_model(tmp_path / "v1", "first")
    (tmp_path / "w.pth").write_text("first")
    return stubbed.copied(tmp_path / "clone")


@pytest.mark.long
def test_each_model_is_trained_again_when_its_own_weights_change(clone):
    top = clone.folder.parent
    write_params(clone.folder, **TWO | {"weights": {"resnet18": "../v1", "resnet34": "../w.pth"}})
    assert trained(clone("dvc repro")) == {"resnet18-0", "resnet34-0"}
    assert "up to date" in clone("dvc status")
    (top / "w.pth").write_text("other")
    (top / "v1/README.md").write_text("not a part of the model")
    assert "data/sample/inputs/weights" in clone("dvc status")
    assert trained(clone("dvc repro")) == {"resnet34-0"}
    (top / "v1/model.json").write_text('{"classes": []}')
    (top / "w.pth").write_text("other")  # again
    assert trained(clone("dvc repro")) == {"resnet18-0"}
    write_model(top / "v2", "first")
    (top / "v2/model.json").write_text('{"classes": []}')
    write_params(clone.folder, **TWO | {"weights": {"resnet18": "../v2", "resnet34": "../w.pth"}})
    assert stages_run(clone("dvc repro")) == {"inputs"}  # the same content elsewhere


@pytest.mark.long
def test_another_model_and_weights_by_name_train_nothing_else(clone):
    write_params(clone.folder, **TINY | {"weights": {"resnet18": "DEFAULT"}})
    assert trained(clone("dvc repro")) == {"resnet18-0"}
    hub = f"timm/resnet34.a1_in1k@{COMMIT}"
    write_params(clone.folder, **TWO | {"weights": {"resnet18": "DEFAULT", "resnet34": hub}})
    assert trained(clone("dvc repro")) == {"resnet34-0"}
    write_params(clone.folder, **TINY | {"weights": "DEFAULT"})
    assert not trained(clone("dvc repro"))
    records = clone.folder / "reports/sample/inputs/weights"
    assert [file.name for file in records.iterdir()] == ["resnet18.json"]
    assert clone.json("reports/sample/inputs/weights/resnet18.json") == {"name": "DEFAULT"}


@pytest.mark.parametrize("weights", ["models/sample/resnet18-0.safetensors", "winner/sample", "a/../winner"])
def test_models_that_the_pipeline_writes_are_copied_first(project, weights):
    (project / "a").mkdir()
    write_model(project / "models/sample", "")
    (project / "models/sample/resnet18-0.safetensors").touch()
    write_params(project, **TINY | {"weights": weights})
    with pytest.raises(UserError, match="DVC removes and replaces .* `cp -r winner/NAME ../NAME-1`"):
        inputs.main([])


@pytest.mark.long
def test_version_two_of_a_dataset_begins_with_a_copy_of_version_one(clone):
    """The steps of docs/OWN_PHOTOS.md."""
    clone("cp -r winner/sample ../sample-1")
    write_params(clone.folder, **TINY | {"weights": "../sample-1", "lr": 0.5})
    assert trained(clone("dvc repro")) == {"resnet18-0"}
    clone("dvc checkout")
    assert (clone.folder.parent / "sample-1/model.safetensors").is_file()
    clone.commit("version two")
    assert trained(clone("dvc exp run --temp -S lr=0.25")) == {"resnet18-0"}


def test_what_is_recorded_stays_where_the_model_is_not_on_this_machine(project):
    write_model(project / "v1", "first")
    write_params(project, **TINY | {"weights": "v1"})
    inputs.main([])
    record = project / "reports/sample/inputs/weights/resnet18.json"
    before = json.loads(record.read_text())
    assert {kind: files[0]["name"] for kind, files in before.items()} == {
        "weights": "model.safetensors",
        "metadata": "model.json",
    }
    shutil.rmtree(project / "v1")
    inputs.main([])
    assert json.loads(record.read_text()) == before
    write_params(project, **TINY | {"weights": "v2.pth"})
    with pytest.raises(UserError, match=r"params.yaml: weights: v2\.pth: not found"):
        inputs.main([])
