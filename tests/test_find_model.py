"""Models are found by file, folder, run or model name; their settings are the project's or plain ones."""

import hashlib
from pathlib import Path

import pytest
import yaml
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


@pytest.fixture
def recorded(project) -> paths.Run:
    """A project whose dvc.lock records the files of its only run; nothing checks their format here."""
    write_params(project, dataset__name="tiny")
    run = paths.Run("tiny", "resnet18", 0)
    outs = []
    for file, content in ((run.weights, b"weights"), (run.sidecar, b"{}")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        outs.append({"path": str(file), "md5": hashlib.md5(content).hexdigest(), "size": len(content)})
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"train@resnet18-0": {"outs": outs}}}))
    models = {"resnet18": {"run": "resnet18-0"}}
    file_io.write_json(paths.LEADERBOARD, {"dataset": "tiny", "winner": "resnet18", "models": models})
    return run


def test_a_recorded_model_is_found_and_printed(recorded, capsys):
    for name in (None, "resnet18", "resnet18-0", str(recorded.weights)):
        assert find_model.find_model(name) == (recorded.weights, recorded.sidecar)
    assert capsys.readouterr().err == "model: models/tiny/resnet18-0.safetensors\n" * 3


@pytest.mark.parametrize("content", [b"other-w", b"of another size"])
@pytest.mark.parametrize("which", ["weights", "sidecar"])
def test_the_model_of_another_commit_is_rejected_and_by_its_path_reported(recorded, capsys, which, content):
    """After `git checkout` without `dvc checkout`."""
    file = getattr(recorded, which)
    file.write_bytes(content[: 2 if which == "sidecar" and content == b"other-w" else None])
    for name in (None, "resnet18", "resnet18-0"):
        with pytest.raises(UserError, match=f"{file} is not the file that dvc.lock .*`dvc checkout {file}`"):
            find_model.find_model(name)
    assert find_model.find_model(str(recorded.weights)) == (recorded.weights, recorded.sidecar)
    assert f"warning: {file} is not" in capsys.readouterr().err


def test_a_leaderboard_and_a_run_of_another_dataset_are_rejected(recorded, project):
    """params.yaml has been replaced by another recipe, whose dataset has been trained once, long ago."""
    write_params(project, dataset__name="other")
    old = paths.Run("other", "resnet18", 0)
    old.weights.parent.mkdir(parents=True)
    for file in (old.weights, old.sidecar):
        file.write_bytes(b"{}")
    for name in (None, "resnet18"):
        with pytest.raises(
            UserError, match="has models of dataset tiny, but params.yaml names other.*winner/tiny"
        ):
            find_model.find_model(name)
    with pytest.raises(UserError, match=f"{old.weights}: dvc.lock records no such file"):
        find_model.find_model("resnet18-0")


def test_the_winner_s_folder_is_checked_by_dvc_s_list_of_it(recorded, project, capsys):
    weights, sidecar = paths.exported_model(paths.winner_folder("tiny"))
    weights.parent.mkdir(parents=True)
    listed = []
    for file in (weights, sidecar):
        file.write_bytes(b"{}")
        listed.append({"md5": hashlib.md5(b"{}").hexdigest(), "relpath": file.name})
    lock = {"stages": {"winner": {"outs": [{"path": "winner/tiny", "md5": "abc.dir"}]}}}
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    assert find_model.find_model("winner/tiny")[0].name == "model.safetensors"  # not in this cache: unknown
    file_io.write_json(project / ".dvc/cache/files/md5/ab/c.dir", listed)
    find_model.find_model("winner/tiny")
    assert capsys.readouterr().err == ""
    weights.write_bytes(b"other")
    find_model.find_model("winner/tiny")
    assert "warning: winner/tiny/model.safetensors is not the file that" in capsys.readouterr().err


def test_a_model_whose_files_are_not_there_is_named(project):
    with pytest.raises(UserError, match="^m.safetensors: not found; a model is two files"):
        find_model.find_model("m.safetensors")


def test_outside_of_a_project_the_message_names_the_option(project):
    with pytest.raises(UserError, match=r"params.yaml: not found; .*--model"):
        find_model.find_model(None)


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n", "[]", "stages: {a: 1}", "stages: {a: {outs: [x]}}"])
def test_a_lock_that_is_not_dvc_s_is_reported(recorded, text):
    Path("dvc.lock").write_text(text)
    with pytest.raises(UserError, match="dvc.lock: not what DVC writes"):
        find_model.find_model(None)
