"""An exported folder is found on disk, or downloaded from the Hub once and without its graph."""

import os
import sys
from pathlib import Path

import drawn
import fork_server
import pytest
from hub_stub import COMMIT, HubStub
from untrained import save_untrained

from finegrain.core import paths
from finegrain.core.errors import UserError
from finegrain.serving import hub
from finegrain.serving.predictor import Predictor


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A folder with the two files that finegrain loads."""
    folder = tmp_path_factory.mktemp("exported")
    save_untrained(*paths.exported_model(folder), classes="abcdefg")
    return folder


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "model.safetensors .*model.json"),
        ("missing", "missing: no such folder"),
        ("missing/deep/folder", "missing/deep/folder: no such folder"),
        ("/missing/folder", "/missing/folder: no such folder"),
        ("../missing", "../missing: no such folder"),
        ("owner/na me", "no such folder"),
    ],
)
def test_a_path_that_is_no_folder_and_no_repository_name_is_rejected(path, message, project):
    with pytest.raises(UserError, match=message):
        Predictor.from_pretrained(path)


def test_a_folder_has_no_revision(exported):
    with pytest.raises(UserError, match="not a Hub repository.* v1"):
        Predictor.from_pretrained(exported, revision="v1")


class FindModelFolder:
    """Calls ``hub.find_model_folder`` in a process with a cache of its own and the stub as its Hub."""

    def __init__(self, hub: HubStub, home: Path) -> None:
        self.environment: dict[str, str | None] = {
            name: None for name in os.environ if name.startswith(("HF_", "HUGGING"))
        }
        self.environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        self.environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
        self.environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.script = home / "find.py"
        self.script.write_text(
            "import sys\nassert 'huggingface_hub' not in sys.modules  # it reads the environment once\n"
            "from finegrain.core import process\nfrom finegrain.serving import hub\n"
            "process.run_main(lambda: print(hub.find_model_folder(*sys.argv[1:])))"
        )

    def __call__(self, *arguments: str, code: int = 0, **environment: str) -> str:
        done = fork_server.run(self.script, arguments, self.script.parent, self.environment | environment)
        assert done.returncode == code, done.output
        return done.output.strip()


def test_a_repository_of_the_hub_is_downloaded_once_and_without_its_graph(exported, tmp_path):
    files = {file.name: file.read_bytes() for file in paths.exported_model(exported)}
    files["model.onnx"] = b"large"
    with HubStub({"owner/name": files, "owner/other": {"README.md": b"-"}}) as hub:
        find = FindModelFolder(hub, tmp_path)
        folder = Path(find("owner/name"))
        downloads = [request for request in hub.requests if request.startswith("GET /owner")]
        base = f"GET /owner/name/resolve/{COMMIT}"
        assert sorted(downloads) == [f"{base}/model.json", f"{base}/model.safetensors"]
        assert not any("owner" not in request for request in hub.requests)  # no telemetry, nothing else
        photo = drawn.png(3, 90, 60)
        assert Predictor.from_pretrained(folder)(photo) == Predictor.from_pretrained(exported)(photo)
        hub.requests.clear()
        assert find("owner/name") == str(folder) and "resolve" not in " ".join(hub.requests)
        for arguments, message in (
            (["owner/nobody"], "owner/nobody: no such folder, and no such repository"),
            (["owner/name", "v9"], "owner/name: the repository has no revision v9"),
            (["owner/other"], "owner/other: the repository holds no model.safetensors with model.json"),
        ):
            assert f"error: {message}" in find(*arguments, code=1)
    # the server is gone: the cache still works
    assert find("owner/name") == str(folder)
    assert find("owner/name", HF_HUB_OFFLINE="1") == str(folder)
    for offline in ("0", "1"):
        assert "owner/new: cannot be downloaded (" in find("owner/new", code=1, HF_HUB_OFFLINE=offline)


def test_without_huggingface_hub_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"the package huggingface_hub, .* `make app` .*'finegrain\[app\]'"):
        hub.find_model_folder("owner/name")
