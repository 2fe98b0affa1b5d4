"""Models are found by file, folder, run or model name; their settings are the project's or plain ones."""

import pytest
from params_file import write_params

from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.serving import find_model, hub


def test_a_model_name_means_its_best_run_and_not_a_file_of_that_name(project):
    write_params(project, dataset__name="tiny")
    for run in ("resnet18-0", "resnet18-1", "resnet18"):
        file = project / "models/tiny" / f"{run}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    file_io.write_json(
        paths.LEADERBOARD, {"winner": "resnet18", "models": {"resnet18": {"run": "resnet18-1"}}}
    )
    best = paths.Run("tiny", "resnet18", 1)
    assert find_model.find_model("resnet18") == find_model.find_model(None) == (best.weights, best.sidecar)
    assert find_model.find_model("resnet18-0")[0] == paths.Run("tiny", "resnet18", 0).weights
    for unknown in ("resnet50", "resnet18-7"):
        with pytest.raises(UserError, match=f"{unknown}: .*resnet18"):
            find_model.find_model(unknown)


def test_device_and_precision_are_the_project_s_too(project):
    write_params(project, evaluate__flip=True, device="cpu", precision="fp32")
    assert find_model.evaluation_settings("resnet18") == {
        "flip": True, "image_size": None, "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    assert find_model.evaluation_settings("elsewhere/net.safetensors") == {
        "flip": False, "image_size": None, "device": "auto", "precision": "auto",
    }  # fmt: skip


def test_the_command_takes_a_local_folder_and_never_downloads(project, monkeypatch):
    monkeypatch.setattr(hub, "_download", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(UserError, match="owner/name: no such folder"):
        find_model.find_model("owner/name")
