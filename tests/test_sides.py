"""What a revision holds is read without checking it out, whatever its age; what is not there is told."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import yaml
from clone import Clone
from pipeline import ROOT
from test_params import changed
from test_stages import SMALL

from finegrain import cli, diff, record, sides
from finegrain.errors import UserError


class History:
    """A project whose results are in git itself: no stage has to run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".dvc").mkdir()
        (folder / ".dvc/config").touch()
        self.git("init", "-q", "-b", "main")

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", *who, *words], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout

    def results(
        self, runs: dict[str, str], val_top1: float = 0.5, first: int = 0, **parameters: object
    ) -> None:
        """Write what a run of the pipeline leaves; of each training, 1 for a right answer."""
        (self.folder / "params.yaml").write_text(yaml.safe_dump({"dataset": {"name": "d"}, **parameters}))
        stages = {}
        for run, marks in runs.items():
            frame = pd.DataFrame({"path": [f"{first + i}.jpg" for i in range(len(marks))], "class": "cat"})
            frame["class_1"] = ["cat" if mark == "1" else "dog" for mark in marks]
            file = self.folder / f"data/d/predictions/{run}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            frame.to_parquet(file)
            record.write_json(self.folder / f"metrics/d/{run}.json", {"val": {"top1": val_top1, "loss": 0.1}})
            deps = [{"path": "src/train.py", "md5": "1"}, {"path": "data/d/manifest.csv", "md5": "2"}]
            lr = {"lr": parameters.get("lr", 1e-6)}
            stages[f"train@{run}"] = {"deps": deps, "params": {"params.yaml": lr}}
        (self.folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))

    def commit(self, message: str) -> str:
        self.git("add", "-A", "-f")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD").strip()


@pytest.fixture
def history(project) -> History:
    return History(project)


def run(*words: object) -> int:
    return diff.run(cli.parser().parse_args(["diff", *map(str, words)]))


def test_a_commit_a_branch_and_the_workspace(history):
    history.results({"net-0": "1100", "net-7": "1000"}, val_top1=0.25, models=["net"], seeds=[0, 7], lr=0.1)
    commit = history.commit("one")
    history.git("branch", "first")
    history.results({"net-0": "1111"}, models=["net"], seeds=[0], lr=0.2)
    for name in ("first", "HEAD", commit[:10]):
        found = sides.read(name)
        assert found.commit == commit and found.name == name
        assert found.models["net"].answers.tolist() == [["cat", "cat", "dog", "dog"], ["cat"] + ["dog"] * 3]
        assert found.models["net"].val_top1 == 0.25
        assert found.parameters["lr"] == 0.1
        assert found.images.to_dict("list") == {
            "path": ["0.jpg", "1.jpg", "2.jpg", "3.jpg"],
            "class": ["cat"] * 4,
        }
    now = sides.read("workspace")
    assert now.commit is None and now.models["net"].answers.tolist() == [["cat"] * 4]
    assert now.inputs == {"src/train.py": "1", "split": "2"} and now.stale == []


def test_a_revision_from_before_there_were_seeds(history):
    history.results({"a": "1100", "b": "1110"}, models=["a", "b"])
    history.commit("old")
    history.results({"a-0": "1111"}, models=["a"], seeds=[0])
    found = sides.read("HEAD")
    assert {name: len(model.answers) for name, model in found.models.items()} == {"a": 1, "b": 1}
    assert found.inputs == {"src/train.py": "1", "split": "2"}
    assert sides.read("workspace").models.keys() == {"a"}


def test_results_that_are_older_than_a_parameter_are_told_and_1e_06_is_a_number(history):
    history.results({"net-0": "1100"}, models=["net"], seeds=[0], lr=1e-6)
    lock = history.folder / "dvc.lock"
    lock.write_text(re.sub(r"lr: 1.0e-06", "lr: 1e-06", lock.read_text()))  # as DVC writes it
    assert "1e-06" in lock.read_text() and sides.read("workspace").stale == []
    text = (history.folder / "params.yaml").read_text()
    (history.folder / "params.yaml").write_text(text.replace("1.0e-06", "0.1"))
    assert sides.read("workspace").stale == ["lr"]


def test_markdown_json_and_exit_status(history, capsys):
    history.results({"net-0": "1" * 20}, models=["net"], seeds=[0], lr=0.1)
    history.commit("good")
    history.results({"net-0": "0" * 10 + "1" * 10}, models=["net"], seeds=[0], lr=0.2)
    assert run("main", "--images", "2", "--out", "out/diff.md", "--json", "out/diff.json") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("**Really worse: net (−50.0) points of top-1.**\n") and printed.err == ""
    assert printed.out == Path("out/diff.md").read_text()
    assert printed.out.count(".jpg`") == 2
    facts = json.loads(Path("out/diff.json").read_text())
    assert len(facts["models"][0]["flips"]) == 10
    assert facts["parameters"] == [{"name": "lr", "before": 0.1, "after": 0.2}]
    assert run("main", "--fail-if-worse") == 1
    assert run("workspace", "main", "--fail-if-worse") == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: None, "nowhere: unknown Git revision 'nowhere'; give a branch, tag or commit, or an exp"),
        (
            lambda f: (f / "params.yaml").unlink(),
            "HEAD: params.yaml is not to be found .*; name a revision of this",
        ),
        (lambda f: (f / "params.yaml").write_text("a: [1"), "HEAD: params.yaml is not YAML"),
        (lambda f: (f / "params.yaml").write_text("[1]"), "HEAD: params.yaml is no mapping"),
        (
            lambda f: (f / "params.yaml").write_text("dataset: {name: d}"),
            "HEAD: params.yaml: models: Field required",
        ),
        (
            lambda f: (f / "data/d/predictions/b-0.parquet").unlink(),
            "HEAD: data/d/predictions/b-0.parquet is not to be found .*`git checkout [0-9a-f]{7}`",
        ),
        (
            lambda f: (f / "metrics/d/b-0.json").unlink(),
            "HEAD: metrics/d/b-0.json is not to be found .*`dvc fetch --all-commits`",
        ),
        (
            lambda f: (f / "metrics/d/b-0.json").write_text("<<<<<<< HEAD"),
            "HEAD: metrics/d/b-0.json is not a training's metrics",
        ),
        (
            lambda f: (f / "data/d/predictions/b-0.parquet").write_bytes(b"PAR"),
            "HEAD: data/d/predictions/b-0.parquet is not a Parquet file",
        ),
        (
            lambda f: pd.DataFrame({"path": ["x"], "class": "a", "class_1": "a"}).to_parquet(
                f / "data/d/predictions/b-0.parquet"
            ),
            "HEAD: b-0 was scored on other test images than a-0",
        ),
    ],
)
def test_what_cannot_be_read_is_told_with_its_cure(history, spoil, message):
    history.results({"a-0": "11", "b-0": "11"}, models=["a", "b"], seeds=[0])
    spoil(history.folder)
    history.commit("spoilt")
    with pytest.raises(UserError, match=message):
        sides.read("nowhere" if "nowhere" in message else "HEAD")


def test_the_workspace_s_missing_results_are_made_by_dvc_repro(history):
    history.results({"a-0": "11"}, models=["a", "b"], seeds=[0])
    with pytest.raises(
        UserError, match="workspace: .*b-0.parquet is not to be found .*; `dvc repro` makes it"
    ):
        sides.read("workspace")


def test_outside_a_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="HEAD: .* not a git repository; .*in the project's folder"):
        sides.read("HEAD")


@pytest.mark.slow
def test_commits_experiments_a_remote_and_a_cache_that_was_cleared(tmp_path_factory, monkeypatch):
    """Real DVC: what is compared was trained, and is read from the cache, then a remote, then is gone."""
    clone = Clone(tmp_path_factory.mktemp("diff"))
    small = {**SMALL, "models": ["resnet18"], "seeds": [0], "dataset__images_per_class": 24}
    changed(clone.folder, **small)
    clone(f"dvc remote add -q --local -d store {clone.folder.parent / 'store'}")  # in no revision
    clone("dvc repro")
    clone.commit("one")
    clone("dvc push -q")
    clone("dvc exp run -n tried -S lr=0.01 -S 'seeds=[0,1]'")
    clone.commit("two")
    clone("dvc push -q")
    clone("dvc exp run -n flipped -S evaluate.flip=true")
    file = "data/sample/predictions/resnet18-{}.parquet"

    def answers(revision: str, seeds: Sequence[int]) -> list[list[str]]:
        """By `dvc get`, in place of what is tested."""
        found = []
        for seed in seeds:
            copy = clone.folder.parent / f"{revision}-{seed}.parquet"
            clone(f"dvc get -q . {file.format(seed)} --rev {revision} -o {copy}")
            found.append(pd.read_parquet(copy)["class_1"].tolist())
        return found

    monkeypatch.chdir(clone.folder)
    expected = {"main~1": answers("main~1", [0]), "tried": answers("tried", [0, 1])}
    expected |= {"main": expected["tried"], "flipped": answers("flipped", [0, 1])}
    expected["workspace"] = expected["flipped"]
    assert expected["main~1"] != expected["main"][:1] and expected["main"] != expected["workspace"]
    for name, wanted in expected.items():
        side = sides.read(name)
        assert side.models["resnet18"].answers.tolist() == wanted and side.stale == []

    def diff(words: str, code: int = 0) -> str:
        return clone(f"PYTHONPATH={ROOT / 'src'} {sys.executable} -m finegrain.cli diff {words}", code)

    for before, after, other in (("main~1", "tried", {"lr", "seeds"}), ("main", "", {"evaluate.flip"})):
        said = diff(f"{before} {after} --json ../facts.json")
        assert said.startswith("**") and f"`{before}` (" in said  # and nothing on standard error
        facts = json.loads((clone.folder.parent / "facts.json").read_text())
        assert {each["name"] for each in facts["parameters"]} == other and not facts["inputs"]
        assert facts["images"] == len(expected["main"][0]) > 20

    cached = clone.folder / ".dvc/cache"
    shutil.rmtree(cached)
    diff("main~1 main")
    shutil.rmtree(clone.folder.parent / "store")
    shutil.rmtree(cached, ignore_errors=True)
    commit = clone("git rev-parse --short=7 main").strip()
    refused = diff("main", 1)
    assert refused.startswith(f"error: main: {file.format(0)} is not to be found in git, DVC's cache or a")
    assert f"`git checkout {commit}`, `dvc repro` and `dvc exp save -n again`" in refused
