"""Predictor.from_pretrained: from a folder or from the Hub, the same bits as the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import drawn
import numpy as np
import pytest
import torch
from hub_stub import COMMIT, HubStub
from pipeline import ROOT

from finegrain import cli
from finegrain.config.training import HeadParams
from finegrain.core import paths
from finegrain.core.errors import UserError
from finegrain.dataset import decoding
from finegrain.models import build, storage
from finegrain.serving import find_model, hub, inputs, predict, predictor
from finegrain.serving.predictor import Predictor


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """A folder with the two files that finegrain loads."""
    folder = tmp_path_factory.mktemp("one")
    facts = {
        "model": "resnet18", "classes": list("abcdefg"), "image_size": 32, "pack_image_size": 40,
        "mean": [0.5] * 3, "std": [0.2] * 3, "refit": False, "temperature": 0.4,
        "unknown_below": 0.3, "recipe": {"head": {}},
    }  # fmt: skip
    net = build.build_model("resnet18", 7, "none", HeadParams(), seed=0)
    storage.save_model(*paths.exported_model(folder), net.state_dict(), facts)
    (folder / "photo.png").write_bytes(drawn.png(3, 90, 60))
    return folder


def test_it_gives_the_command_s_logits_to_the_bit(one, tmp_path):
    drawn.tree(tmp_path, {f"{n}.png": drawn.png(n, 90 + n, 60) for n in range(70)})  # more than a batch
    asked = list(inputs.find_photos([str(tmp_path)])[0].read())
    command = predictor.Predictor(*find_model.find_model(str(one)), torch.device("cpu"), True, None, False)
    loaded = Predictor.from_pretrained(str(one), device="cpu", precision="bf16")
    skipped: list[tuple[str, str]] = []
    wanted, got = (np.stack([row for _, row in p.logits(asked, skipped)]) for p in (command, loaded))
    assert wanted.shape == (70, 7) and np.array_equal(wanted, got) and np.ptp(wanted) > 0.1


def test_a_call_says_what_the_command_prints(one, capsys):
    photo = one / "photo.png"
    words = ["predict", str(photo), "--model", str(one), "--format", "jsonl", "--top", "7"]
    assert predict.run(cli.parser().parse_args(words)) == 0
    printed = json.loads(capsys.readouterr().out)["top"]
    predictor = Predictor.from_pretrained(one)
    answer = predictor(photo, top=7)
    assert [(row["class"], row["probability"]) for row in printed] == answer
    assert predictor(str(photo))[:5] == predictor(photo.read_bytes()) == answer[:5]
    assert sum(p for _, p in answer) == pytest.approx(1) and answer == sorted(answer, key=lambda a: -a[1])


def test_what_is_no_photo_raises(one, tmp_path):
    predictor = Predictor.from_pretrained(one)
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(decoding.BadImage, match=r"page.jpg: not an image: a web page"):
        predictor(tmp_path / "page.jpg")
    with pytest.raises(decoding.BadImage, match="photo: not an image: empty file"):
        predictor(b"")
    with pytest.raises(FileNotFoundError):
        predictor(tmp_path / "no.jpg")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "holds no model.safetensors with model.json; give a folder that `finegrain export` made"),
        ("missing", "missing: no such folder"),
        ("missing/deep/folder", "missing/deep/folder: no such folder"),
        ("/missing/folder", "/missing/folder: no such folder"),
        ("../missing", "../missing: no such folder"),
        ("owner/na me", "no such folder"),
    ],
)
def test_what_is_no_folder_and_can_be_no_repository_is_refused(place, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        Predictor.from_pretrained(place)


def test_a_folder_has_no_revision(one):
    with pytest.raises(UserError, match="is not a repository of the Hub, so it has no revision v1"):
        Predictor.from_pretrained(one, revision="v1")


def test_the_command_s_model_is_a_folder_and_never_fetched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_download", lambda *_: pytest.fail("asked the Hub"))
    with pytest.raises(UserError, match="owner/name: no such folder"):
        find_model.find_model("owner/name")


class Asked:
    """Runs ``hub.find_model_folder`` in a process with its own cache, whose Hub is the stub."""

    def __init__(self, hub: HubStub, home: Path) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        proxies = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        self.environment = {**kept, **proxies, "HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
        self.environment["PYTHONPATH"] = str(ROOT / "src")
        self.environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

    def __call__(self, *arguments: str, code: int = 0, **environment: str) -> str:
        script = (
            "import sys\nfrom finegrain.core import process\n"
            "from finegrain.serving import hub\n"
            "process.run_main(lambda: print(hub.find_model_folder(*sys.argv[1:])))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env=self.environment | environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return (done.stdout + done.stderr).strip()


def test_a_repository_of_the_hub_is_fetched_once_without_its_graph(one, tmp_path):
    files = {file.name: file.read_bytes() for file in paths.exported_model(one)} | {"model.onnx": b"large"}
    with HubStub({"owner/name": files, "owner/other": {"README.md": b"-"}}) as hub:
        asked = Asked(hub, tmp_path)
        folder = Path(asked("owner/name"))
        fetched = [request for request in hub.requests if request.startswith("GET /owner")]
        base = f"GET /owner/name/resolve/{COMMIT}"
        assert sorted(fetched) == [f"{base}/model.json", f"{base}/model.safetensors"]
        assert not any("owner" not in request for request in hub.requests)  # nothing else is told or asked
        predictor = Predictor.from_pretrained(folder)
        assert predictor(one / "photo.png") == Predictor.from_pretrained(one)(one / "photo.png")
        hub.requests.clear()
        assert asked("owner/name") == str(folder) and "resolve" not in " ".join(hub.requests)
        for arguments, message in (
            (["owner/nobody"], "owner/nobody: no folder has this name, and the Hub no such repository"),
            (["owner/name", "v9"], "owner/name: the repository has no revision v9"),
            (["owner/other"], "owner/other: the repository holds no model.safetensors with model.json"),
        ):
            assert f"error: {message}" in asked(*arguments, code=1)
    # the server is gone: what was fetched still serves
    assert asked("owner/name") == str(folder)
    assert asked("owner/name", HF_HUB_OFFLINE="1") == str(folder)
    for offline in ("0", "1"):
        assert "owner/new: cannot be fetched (" in asked("owner/new", code=1, HF_HUB_OFFLINE=offline)


def test_without_the_hub_s_client_a_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs the package huggingface_hub, .* -r requirements-app.txt"):
        hub.find_model_folder("owner/name")
