"""Results are read from revisions of any age without checking them out; what is missing is reported."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from history import History
from stub_stages import stages_run

from finegrain import cli
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.experiments import diff, git, revision
from finegrain.experiments.results import RevisionResults


@pytest.fixture
def history(project) -> History:
    return History(project)


def read(name: str) -> RevisionResults:
    return revision.read_revisions(name)[0]


def run(*words: object) -> int:
    return diff.run(cli.build_parser().parse_args(["diff", *map(str, words)]))


def test_a_commit_a_branch_and_the_workspace(history):
    history.results({"net-0": "1100", "net-7": "1000"}, val_top1=0.25, models=["net"], seeds=[0, 7], lr=0.1)
    commit = history.commit("one")
    history.git("branch", "first")
    history.results({"net-0": "1111"}, models=["net"], seeds=[0], lr=0.2)
    for name in ("first", "HEAD", commit[:10]):
        found = read(name)
        assert found.commit == commit and found.name == name
        assert found.models["net"].predictions.tolist() == [
            ["cat", "cat", "dog", "dog"],
            ["cat"] + ["dog"] * 3,
        ]
        assert found.models["net"].validation["top1"] == 0.25
        assert found.parameters["lr"] == 0.1
        assert found.images.to_dict("list") == {
            "path": ["0.jpg", "1.jpg", "2.jpg", "3.jpg"],
            "class": ["cat"] * 4,
        }
    now = read("workspace")
    assert now.commit is None and now.models["net"].predictions.tolist() == [["cat"] * 4]
    assert now.inputs == {"src/train.py": "1" * 32, "split": "2" * 32} and now.stale_parameters == []


def test_a_commit_from_before_results_had_a_file_of_their_own(history):
    history.results({"a-0": "1100"}, models=["a"], seeds=[0], val_top1=0.625)
    file = history.folder / "reports/d/results/a-0.json"
    file.replace(history.folder / "metrics/d/a-0.json")
    history.commit("old")
    assert read("HEAD").models["a"].validation["top1"] == 0.625


def test_a_revision_from_before_there_were_seeds(history):
    history.results({"a": "1100", "b": "1110"}, models=["a", "b"])
    history.commit("old")
    history.results({"a-0": "1111"}, models=["a"], seeds=[0])
    found = read("HEAD")
    assert {name: len(model.predictions) for name, model in found.models.items()} == {"a": 1, "b": 1}
    assert found.inputs == {"src/train.py": "1" * 32, "split": "2" * 32}
    assert read("workspace").models.keys() == {"a"}


def test_results_that_are_older_than_a_parameter_are_reported_and_1e_06_is_a_number(history):
    history.results({"net-0": "1100"}, models=["net"], seeds=[0], lr=1e-6)
    lock = history.folder / "dvc.lock"
    lock.write_text(re.sub(r"lr: 1.0e-06", "lr: 1e-06", lock.read_text()))  # as DVC writes it
    assert "1e-06" in lock.read_text() and read("workspace").stale_parameters == []
    text = (history.folder / "params.yaml").read_text()
    (history.folder / "params.yaml").write_text(text.replace("1.0e-06", "0.1"))
    assert read("workspace").stale_parameters == ["lr"]


def test_markdown_json_and_exit_status(history, capsys):
    history.results({"net-0": "1" * 20}, models=["net"], seeds=[0], lr=0.1)
    history.commit("good")
    history.results({"net-0": "0" * 10 + "1" * 10}, models=["net"], seeds=[0], lr=0.2)
    assert run("main", "--images", "2", "--out", "out/diff.md", "--json", "out/diff.json") == 0
    printed = capsys.readouterr()
    assert (
        printed.out.startswith("**Significantly worse: net (−50.0) points of top-1.**\n")
        and printed.err == ""
    )
    assert printed.out == Path("out/diff.md").read_text()
    assert printed.out.count(".jpg`") == 2
    written = json.loads(Path("out/diff.json").read_text())
    assert len(written["models"][0]["flips"]) == 10
    assert written["parameters"] == [{"name": "lr", "before": 0.1, "after": 0.2}]
    assert run("main", "--fail-if-worse") == 1
    assert run("workspace", "main", "--fail-if-worse") == 0


@pytest.mark.parametrize(("recorded", "used"), [(True, "macro_f1"), (False, "top1")])
def test_the_metric_that_chooses_is_read_unless_the_results_are_older(history, recorded, used):
    history.results({"a-0": "1100"}, models=["a"], seeds=[0], choose_by="macro_f1")
    if recorded:
        validation = {"top1": 0.5, "loss": 0.1, "macro_f1": 0.25, "mean_class_accuracy": 0.5}
        file_io.write_json(history.folder / "reports/d/results/a-0.json", {"val": validation})
    history.commit("x")
    found = read("HEAD")
    assert found.choose_by == used and found.models["a"].validation["top1"] == 0.5


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: None, "nowhere: unknown Git revision 'nowhere'; give a branch, tag or commit, or an exp"),
        (
            lambda f: (f / "params.yaml").unlink(),
            "HEAD: params.yaml not found .*; give a revision of this",
        ),
        (lambda f: (f / "params.yaml").write_text("a: [1"), "HEAD: params.yaml is not YAML"),
        (
            lambda f: (f / "params.yaml").write_text("dataset: {name: d}\nmodels: ['@all <b>']"),
            "HEAD: params.yaml: models.0: '@all <b>': must match",
        ),
        (lambda f: (f / "params.yaml").write_text("[1]"), "HEAD: params.yaml must be a mapping"),
        (
            lambda f: (f / "params.yaml").write_text("dataset: {name: d}"),
            "HEAD: params.yaml: models: is missing",
        ),
        (
            lambda f: [
                (f / file).unlink()
                for file in ("data/d/predictions/b-0.parquet", "reports/d/correct/b-0.csv")
            ],
            "HEAD: data/d/predictions/b-0.parquet not found .*`git checkout [0-9a-f]{7}`",
        ),
        (
            lambda f: (f / "reports/d/results/b-0.json").unlink(),
            "HEAD: reports/d/results/b-0.json not found .*`dvc fetch --all-commits`",
        ),
        (
            lambda f: (f / "reports/d/results/b-0.json").write_text("<<<<<<< HEAD"),
            "HEAD: reports/d/results/b-0.json is not the results of a run",
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
def test_what_cannot_be_read_is_reported_with_a_remedy(history, spoil, message):
    history.results({"a-0": "11", "b-0": "11"}, models=["a", "b"], seeds=[0])
    spoil(history.folder)
    history.commit("spoilt")
    with pytest.raises(UserError, match=message):
        revision.read_revisions("nowhere" if "nowhere" in message else "HEAD")


def test_the_workspace_s_missing_results_are_made_by_dvc_repro(history):
    history.results({"a-0": "11"}, models=["a", "b"], seeds=[0])
    with pytest.raises(UserError, match="workspace: .*b-0.parquet not found .*; `dvc repro` makes it"):
        read("workspace")


def test_outside_a_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="not a git repository.*; run this in the project's folder"):
        read("HEAD")


def test_without_the_predictions_both_revisions_are_compared_by_what_git_holds(history, capsys):
    """As in a pull request from a fork, whose files are in no remote."""
    net = paths.Run("d", "net", 0)
    history.results({"net-0": "1" * 20}, models=["net"], seeds=[0])
    kept, file = (history.folder / each for each in (net.predictions, net.correct))
    file.unlink()  # main has no such file, but predictions
    history.commit("named")
    history.results({"net-0": "0" * 10 + "1" * 10}, models=["net"], seeds=[0])
    assert run("main", "--json", "named.json") == 0
    kept.unlink()
    capsys.readouterr()
    assert run("main", "--json", "nameless.json") == 0
    printed = capsys.readouterr().out
    assert (
        printed.startswith("**Significantly worse: net (−50.0) points of top-1.**\n")
        and ".jpg" not in printed
    )
    assert "Correct before, incorrect after: 10 images.\n" in printed
    assert "Which images flipped is not known here: " in printed and "net-0.parquet not found" in printed
    named, nameless = (file_io.read_json(Path(f"{name}.json")) for name in ("named", "nameless"))
    assert named["nameless"] is None and "net-0.parquet" in nameless["nameless"]
    verdicts = ("difference", "low", "high", "p_value", "verdict", "classes")
    assert [named["models"][0][key] for key in verdicts] == [nameless["models"][0][key] for key in verdicts]
    file.write_text("class,correct\n")
    with pytest.raises(UserError, match="workspace: reports/d/correct/net-0.csv is not what evaluate writes"):
        read("workspace")


def test_a_folder_of_a_larger_repository_is_rejected(history, monkeypatch):
    (history.folder / "project").mkdir()
    monkeypatch.chdir(history.folder / "project")
    with pytest.raises(UserError, match="project/: a folder of a larger git repository"):
        read("main")


@pytest.mark.long
def test_commits_experiments_a_remote_and_a_cache_that_was_cleared(stubbed, tmp_path, monkeypatch, capsys):
    """Real DVC, stub stages: what is compared is read from the cache, then from a remote, then is gone."""
    clone = stubbed.copied(tmp_path / "clone")
    clone(f"dvc remote add -q --local -d store {clone.folder.parent / 'store'}")  # in no revision
    clone("dvc push -q")
    clone("dvc exp run -n tried -S lr=0.02")
    clone.commit("two")
    clone("dvc push -q")
    output = clone("dvc exp run -n flipped -S evaluate.flip=true")
    assert stages_run(output) == {"evaluate@resnet18-0", "compare", "winner"}  # nothing is trained
    file = "data/sample/predictions/resnet18-0.parquet"

    def predictions(revision: str) -> list[str]:
        """By `dvc get`, in place of what is tested."""
        copy = clone.folder.parent / f"{revision}.parquet"
        clone(f"dvc get -q . {file} --rev {revision} -o {copy}")
        return pd.read_parquet(copy)["class_1"].tolist()

    monkeypatch.chdir(clone.folder)
    expected = {name: predictions(name) for name in ("main~1", "tried", "flipped")}
    expected |= {"main": expected["tried"], "workspace": expected["flipped"]}
    assert expected["main~1"] != expected["main"] != expected["workspace"]
    for name, wanted in expected.items():
        results = read(name)
        assert results.models["resnet18"].predictions.tolist() == [wanted] and results.stale_parameters == []

    def diff(*words: str) -> str:
        assert run(*words) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    for before, after, other in (("main~1", "tried", {"lr"}), ("main", "", {"evaluate.flip"})):
        printed = diff(before, *([after] if after else []), "--json", "../diff.json")
        assert printed.startswith("**") and f"`{before}` (" in printed
        written = json.loads((clone.folder.parent / "diff.json").read_text())
        assert {each["name"] for each in written["parameters"]} == other and not written["inputs"]
        assert written["images"] == len(expected["main"]) > 20

    cached = clone.folder / ".dvc/cache"
    shutil.rmtree(cached)
    diff("main~1", "main")
    shutil.rmtree(clone.folder.parent / "store")
    shutil.rmtree(cached, ignore_errors=True)
    commit = clone("git rev-parse --short=7 main").strip()
    printed = diff("main")  # git still holds which of its predictions are correct
    assert (
        f"not known here: the verdicts come from what git holds of each class, because main: {file}"
        in printed
    )
    assert f"`git checkout {commit}`, `dvc repro` and `dvc exp save -n again`" in printed


def test_no_such_branch_and_no_common_commit(history):
    with pytest.raises(UserError, match="nowhere is neither here nor at the remote `origin`"):
        git.merge_base("nowhere")
    with pytest.raises(UserError, match="--help is neither here nor at the remote"):
        git.merge_base("--help")
    history.commit("start")
    history.git("checkout", "-q", "--orphan", "alone")
    history.commit("alone")
    with pytest.raises(UserError, match="main and this branch have no commit in common"):
        git.merge_base("main")
