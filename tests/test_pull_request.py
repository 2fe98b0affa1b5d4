"""The comment that a pull request gets, on real git repositories with two branches."""

import contextlib
import io
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import dvc.cli
import pytest
from clone import TINY
from history import History
from params_file import write_params

from finegrain import cli
from finegrain.core import file_io
from finegrain.experiments import pull_request

GOOD, BAD, OTHER = "1" * 20, "0" * 10 + "1" * 10, "01" + "1" * 18


def run_dvc_here(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` of a dvc command in this process, which has imported dvc: a tenth of the time."""
    output, errors = io.StringIO(), io.StringIO()
    assert command[1:3] == ["-m", "dvc"]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = dvc.cli.main(command[3:])
    return subprocess.CompletedProcess(command, code, output.getvalue(), errors.getvalue())


@pytest.fixture
def history(project, monkeypatch) -> History:
    """A repository on a branch that left main at the results ``GOOD`` of one model."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setattr(pull_request, "subprocess", SimpleNamespace(run=run_dvc_here))
    made = History(project)
    made.results({"net-0": GOOD}, models=["net"], seeds=[0], lr=0.1)
    made.commit("start")
    made.git("checkout", "-q", "-b", "change")
    return made


def comment(capsys, *words: object, base: str = "main") -> tuple[int, str]:
    status = pull_request.run(cli.build_parser().parse_args(["review", base, *map(str, words)]))
    printed = capsys.readouterr()
    assert printed.err == ""
    return status, plain(printed.out)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def headline(text: str) -> str:
    mark, base, line, *_ = text.splitlines()
    assert mark == "<!-- finegrain review -->" and base.startswith("<!-- base ")
    return line.removeprefix("## ")


def test_a_worse_model(history, capsys):
    history.results({"net-0": BAD}, models=["net"], seeds=[0], lr=0.2)
    commit = history.commit("worse")
    status, text = comment(capsys)
    assert status == 0 and headline(text) == "Significantly worse: net (−50.0) points of top-1."
    assert f"→ `this branch` ({commit[:7]}), compared on the same 20 test images" in text
    assert re.search(r"\| `lr` +\| `0.1` +\| `0.2` +\|", text)
    assert (
        "<summary>net: classes and images</summary>" in text
        and "Correct before, incorrect after: 10 im" in text
    )
    assert re.search(r"\| params.yaml \| lr +\| 0.1 +\| 0.2 +\|", text)  # by `dvc params diff`
    assert comment(capsys, "--fail-if-worse")[0] == 1


def test_a_better_model(history, capsys):
    history.results({"net-0": BAD}, models=["net"], seeds=[0])
    history.commit("worse")
    history.git("checkout", "-q", "-b", "fixed")
    history.results({"net-0": GOOD}, val_top1=0.75, models=["net"], seeds=[0])
    history.commit("better")
    status, text = comment(capsys, "--fail-if-worse", base="change")
    assert status == 0 and headline(text) == "Significantly better: net (+50.0) points of top-1."
    # by `dvc metrics diff`
    assert re.search(r"\| metrics/d/net-0.json \| val_top1 +\| 0.5 +\| 0.75 +\| 0.25 +\|", text)


def test_noise_only(history, capsys):
    history.results({"net-0": OTHER}, models=["net"], seeds=[0], lr=0.1)
    history.commit("noise")
    status, text = comment(capsys, "--fail-if-worse")
    assert status == 0 and headline(text) == "Within noise: net (−5.0) points of top-1."
    assert "seed variance is not counted" in text


def test_a_new_model_and_a_dropped_one(history, capsys):
    history.results({"net-0": GOOD, "big-0": OTHER}, models=["net", "big"], seeds=[0], lr=0.1)
    history.commit("add")
    text = comment(capsys)[1]
    assert headline(text) == "Unchanged: net; added: big."
    assert re.search(r"\| big +\| +1 \| +\| +95.00 % .* added +\|", text)
    history.git("checkout", "-q", "-b", "drop")
    history.results({"big-0": OTHER}, models=["big"], seeds=[0], lr=0.1)
    history.commit("drop")
    text = comment(capsys, base="change")[1]
    assert headline(text) == "Unchanged: big; the winner is another model, within noise; dropped: net."
    assert re.search(r"\| net .* dropped +\|", text)


def test_a_failed_run(history, capsys, tmp_path):
    """Two of three models have results, as a run that ended early leaves them."""
    history.results({"net-0": OTHER}, models=["net", "big"], seeds=[0], lr=0.1)
    history.commit("half")
    log = tmp_path / "run.log"
    log.write_text("epoch 1\repoch 2\n\n\x1b[31merror: out of memory\x1b[0m\n```<b>@all\n")
    status, text = comment(capsys, "--log", log)
    assert status == 1 and headline(text) == "No results to judge"
    assert "predictions/big-0.parquet not found" in text and "`dvc repro` makes it" in text
    assert "````text\nepoch 2\nerror: out of memory\n```<b>@all\n````" in text
    assert re.search(r"\| params.yaml \| models +\|", text)


def test_what_the_base_received_since_is_no_change_of_this_branch(history, capsys):
    history.git("checkout", "-q", "main")
    history.results({"net-0": BAD}, models=["net"], seeds=[0], lr=0.3)
    history.commit("later")
    history.git("checkout", "-q", "change")
    history.results({"net-0": OTHER}, models=["net"], seeds=[0], lr=0.1)
    assert headline(comment(capsys)[1]) == "Within noise: net (−5.0) points of top-1."  # not yet committed


def test_the_first_results_have_nothing_to_be_compared_with(project, capsys):
    empty = History(project)
    (project / "README").write_text("nothing yet")
    empty.commit("start")
    empty.git("checkout", "-q", "-b", "change")
    empty.results({"net-0": OTHER}, models=["net"], seeds=[0])
    empty.commit("first")
    status, text = comment(capsys)
    assert status == 0 and headline(text) == "Nothing to compare with `main`"
    assert "params.yaml not found" in text
    assert re.search(r"\| net +\| +1 \| +50.00 % \| +95.00 % \[76.4 %, 99.1 %\] \|", text)


def test_another_dataset_has_nothing_to_be_compared_with(history, capsys):
    history.results({"net-0": OTHER}, models=["net"], seeds=[0], first=100)
    history.commit("other")
    status, text = comment(capsys)
    assert status == 0 and headline(text) == "Nothing to compare with `main`"
    assert "0 test images in common" in text and "95.00 %" in text


def kept_by_dvc(history: History, message: str) -> None:
    """Commit, with the predictions in DVC's cache and not in git."""
    history.dvc("add", "-q", "data/d/predictions/net-0.parquet")
    history.git("add", "-A")
    history.git("commit", "-q", "-m", message)


@pytest.mark.parametrize("shallow", [False, True])
def test_a_clone_as_continuous_integration_makes_it(history, tmp_path, monkeypatch, capsys, shallow):
    """One commit, one branch, no local main, and a remote that nobody may read without secrets."""
    remote = "[core]\n    remote = team\n['remote \"team\"']\n    url = s3://b/c\n"
    remote += "    endpointurl = http://127.0.0.1:9\n    connect_timeout = 1\n"
    (history.folder / ".dvc/config").write_text(remote)
    history.git("rm", "-q", "-r", "--cached", "data")
    kept_by_dvc(history, "share")
    history.git("branch", "-f", "main")
    for number in range(3):
        history.results({"net-0": BAD}, models=["net"], seeds=[0], lr=0.1 + number)
        kept_by_dvc(history, str(number))
    history.git("checkout", "-q", "main")
    few = ["--depth", "1", "--single-branch"] if shallow else []
    history.git("clone", "-q", *few, "-b", "change", f"file://{history.folder}", str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "")  # like a secret that a fork does not have
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    status, text = comment(capsys)
    assert status == 0 and headline(text) == "Significantly worse: net (−50.0) points of top-1."
    assert (
        "Which images flipped is not known here" in text and "Correct before, incorrect after: 10 im" in text
    )
    assert re.search(r"because main: data/d/predictions/net-0.parquet not found .* \(.*credentials.*\)", text)


def test_another_branch_s_predictions_in_the_folder_are_not_taken_for_this_one_s(history, capsys):
    """After `git checkout` without `dvc checkout`, which git calls clean."""
    history.git("rm", "-q", "-r", "--cached", "data")
    kept_by_dvc(history, "share")
    history.git("branch", "-f", "main")
    good = (history.folder / "data/d/predictions/net-0.parquet").read_bytes()
    history.results({"net-0": BAD}, models=["net"], seeds=[0], lr=0.2)
    kept_by_dvc(history, "worse")
    (history.folder / "data/d/predictions/net-0.parquet").write_bytes(good)
    status, text = comment(capsys, "--fail-if-worse")
    assert status == 1 and headline(text) == "Significantly worse: net (−50.0) points of top-1."


def test_a_leaderboard_of_other_predictions_is_reported(history, capsys):
    """As after `dvc repro evaluate@net-0` alone."""
    history.results({"net-0": BAD}, models=["net"], seeds=[0])
    board = {"winner": "net", "models": {"net": {"test_top1": 1.0}}}
    file_io.write_json(history.folder / "reports/leaderboard.json", board)
    history.commit("half")
    status, text = comment(capsys)
    assert status == 1 and headline(text) == "The results are not those of this code"
    assert "- `compare`: reports/leaderboard.json does not match these predictions" in text
    for spoilt in ("<<<<<<< HEAD", "[]", '{"models": {"net": {}}}', '{"models": null}'):
        (history.folder / "reports/leaderboard.json").write_text(spoilt)
        history.commit("spoilt")
        assert "reports/leaderboard.json does not match these predictions" in comment(capsys)[1]
    board["models"]["net"]["test_top1"] = 0.5
    file_io.write_json(history.folder / "reports/leaderboard.json", board)
    history.commit("whole")
    assert comment(capsys)[0] == 0


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("dvc.lock", "<<<<<<< HEAD\n", "DVC cannot read this project: .*dvc.lock"),
        ("dvc.yaml", "stages: [1", "DVC cannot read this project: .*dvc.yaml"),
        (
            "dvc.yaml",
            "vars: [params.yaml]\nstages: {a: {matrix: {m: '${lr}'}, cmd: x}}",
            "DVC cannot read this project",
        ),
    ],
)
def test_a_project_that_dvc_cannot_read_gets_a_comment_too(history, capsys, file, text, reason):
    (history.folder / file).write_text(text)
    history.commit("broken")
    status, printed = comment(capsys)
    assert status == 1 and headline(printed) == "No results to judge"
    assert re.search(reason, printed)


def test_a_figure_that_is_not_yet_committed_is_named_and_a_curve_of_one_point_left_out(history, capsys):
    curves = history.folder / "reports/curves.png"
    history.results({"net-0": BAD}, models=["net"], seeds=[0], phases={"all": {"epochs": 2}})
    curves.write_bytes(b"new")
    history.commit("worse")
    assert (
        "![curves](https://example.org/reports/curves.png)"
        in comment(capsys, "--files-at", "https://example.org/")[1]
    )
    curves.write_bytes(b"newer")
    text = comment(capsys, "--files-at", "https://example.org/")[1]
    assert "![curves]" not in text and "`reports/curves.png` is not yet committed." in text
    history.results({"net-0": BAD}, models=["net"], seeds=[0], phases={"all": {"solve": "ridge"}})
    assert "curves.png" not in comment(capsys, "--files-at", "https://example.org/")[1]


def test_a_comment_keeps_within_the_limit(history, capsys, tmp_path):
    history.results({"net-0": BAD}, models=["net"], seeds=[0], lr=0.2)
    history.commit("worse")
    whole, short = (comment(capsys, "--limit", limit, "--out", "c.md")[1] for limit in (65_000, 1_200))
    assert len(short) <= 1_200 < len(whole) and plain(Path("c.md").read_text()) == short
    assert headline(short) == headline(whole) and short.count("<details>") == short.count("</details>")
    left_out = whole.count("\n\n") - short.count("\n\n")
    last_line = r"\n\d more parts are left out here; `finegrain review main --limit 1000000` shows them.\n$"
    assert left_out > 0 and re.search(last_line, short)


@pytest.mark.long
def test_on_this_repository_s_pipeline(stubbed, tmp_path, monkeypatch, capsys):
    """Run on main and on a branch; the plots are those of git, and results of other code are reported."""
    clone = stubbed.copied(tmp_path / "mine")
    clone("git checkout -q -b change")
    monkeypatch.chdir(clone.folder)
    write_params(clone.folder, **TINY, lr=0.004)
    clone.commit("not run")
    status, early = comment(capsys)
    monkeypatch.setattr(pull_request, "subprocess", SimpleNamespace(run=run_dvc_here))
    assert status == 1 and headline(early) == "The results are not those of this code"
    assert "- `train@resnet18-0`: lr has changed\n" in early

    clone("dvc repro")
    clone.commit("run")
    theirs = clone.colleague(clone.folder, clone.folder.parent / "ci")  # without data, cache or main
    url = "https://example.org/raw/abc/"
    monkeypatch.chdir(theirs.folder)
    status, text = comment(capsys, "--files-at", url)
    assert status == 0
    assert re.match(
        r"(Significantly (better|worse)|Within .*): resnet18 \([+−]\d+\.\d\) points of top-1\.$",
        headline(text),
    )
    shown = re.findall(rf"!\[[^]]*\]\({url}(.*?)\)", text)
    assert "plots/sample/confusion/resnet18-0.png" in shown
    assert all((theirs.folder / file).is_file() for file in shown)
    assert re.search(r"\| metrics/sample/resnet18-0.json \| loss +\| \d", text)
    assert re.search(r"\| params.yaml \| lr +\| 0.002 +\| 0.004 +\|", text)
    monkeypatch.chdir(clone.folder)
    mine = comment(capsys)[1]
    assert "Which images flipped is not known" in text and "Which images flipped is not known" not in mine
    assert headline(mine) == headline(text)
