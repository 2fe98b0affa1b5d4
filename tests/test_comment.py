"""The comment of a pull request: where it goes, what it replaces, and that a fork's code cannot write it."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock, create_autospec

import pytest
import yaml
from github import Github
from github.IssueComment import IssueComment
from github.PullRequest import PullRequest
from github.Repository import Repository
from pipeline import ROOT

from finegrain.experiments import pull_request

WORKFLOWS = {file.stem: file for file in (ROOT / ".github/workflows").glob("*.yml")}
GITLAB = (ROOT / "docs/PULL_REQUESTS.md").read_text()
ONE, TWO = (f"{pull_request.MARKER}\n{pull_request.base_marker('main')}\n{text}" for text in ("one", "two"))


@pytest.fixture
def script() -> ModuleType:
    """.github/comment.py as a module."""
    spec = importlib.util.spec_from_file_location("comment", ROOT / ".github/comment.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def comment(body: str, kind: str = "Bot") -> MagicMock:
    made = create_autospec(IssueComment, instance=True, body=body)
    made.user.type = kind
    return made


@pytest.fixture
def pull() -> MagicMock:
    """Pull request 7 of a fork, into main."""
    made = create_autospec(PullRequest, instance=True, number=7)
    made.head.sha, made.base.ref = "a" * 40, "main"
    made.get_issue_comments.return_value = []
    return made


@pytest.fixture
def run(script, pull, tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """Run the script after a run of workflow report on ``someone:change``; returns what it prints."""

    def get_pulls(state: str, head: str) -> Sequence[MagicMock]:
        return [pull] if (state, head) == ("open", "someone:change") else []

    repository = create_autospec(Repository, instance=True)
    repository.get_pulls.side_effect = get_pulls
    github = create_autospec(Github)
    github.return_value.get_repo.side_effect = {"o/r": repository}.__getitem__
    monkeypatch.setattr(script, "Github", github)

    def run_script(report: str, sha: str = "a" * 40) -> str:
        (tmp_path / "report.md").write_text(report)
        event = {"head_repository": {"owner": {"login": "someone"}}, "head_branch": "change", "head_sha": sha}
        (tmp_path / "event.json").write_text(json.dumps({"workflow_run": event}))
        environment = {
            "GITHUB_API_URL": "https://api.github.com",
            "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
            "GITHUB_REPOSITORY": "o/r",
            "GITHUB_TOKEN": "secret",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["comment.py", str(tmp_path / "report.md")])
        script.main()
        return str(capsys.readouterr().out)

    return run_script


def is_unchanged(pull: MagicMock) -> bool:
    edited = [each.edit.called for each in pull.get_issue_comments()]
    return not any(edited) and not pull.create_issue_comment.called


def test_it_looks_for_the_marker_that_review_writes(script):
    assert script.MARKER == pull_request.MARKER


def test_the_first_report_of_a_fork_is_a_new_comment(pull, run):
    quoted = comment(f"{pull_request.MARKER}\nquoted by somebody", kind="User")
    pull.get_issue_comments.return_value = [quoted, comment("another bot's")]
    assert run(ONE) == "pull request 7: comment created\n"
    pull.create_issue_comment.assert_called_once_with(ONE)
    assert not any(each.edit.called for each in pull.get_issue_comments())


def test_the_next_report_replaces_the_first(pull, run):
    pull.get_issue_comments.return_value = [comment("another bot's"), comment(ONE), comment("a later one")]
    assert run(TWO) == "pull request 7: comment updated\n"
    before, own, after = pull.get_issue_comments()
    own.edit.assert_called_once_with(TWO)
    assert not (before.edit.called or after.edit.called or pull.create_issue_comment.called)


def test_a_report_for_an_earlier_commit_is_not_posted(pull, run):
    assert "nothing to do" in run(ONE, sha="b" * 40)
    assert is_unchanged(pull)


def test_a_report_against_another_base_is_not_posted(pull, run):
    """The same branch may be proposed to a release too."""
    pull.get_issue_comments.return_value = [comment(ONE)]
    assert "nothing to do" in run(f"{pull_request.MARKER}\n{pull_request.base_marker('release/1')}\none")
    assert is_unchanged(pull)


@pytest.mark.parametrize("report", ["hello", f"{pull_request.MARKER}\n{'x' * 65_536}"])
def test_a_file_that_is_not_a_report_is_not_posted(pull, run, report):
    with pytest.raises(SystemExit, match="report.md is not what `finegrain review` writes"):
        run(report)
    assert is_unchanged(pull)


@pytest.mark.parametrize("existing", [[], ["other"], ["other", ONE]])
def test_the_script_for_gitlab_in_the_docs(monkeypatch, tmp_path, existing):
    """With a stand-in for python-gitlab."""
    gitlab = MagicMock()
    project = gitlab.Gitlab.return_value.projects.get.return_value
    notes = project.mergerequests.get.return_value.notes
    notes.list.return_value = [MagicMock(body=body) for body in existing]
    environment = {"CI_SERVER_URL": "https://gitlab.com", "CI_PROJECT_ID": "3", "CI_MERGE_REQUEST_IID": "7"}
    for name, value in {**environment, "REPORT_TOKEN": "secret"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "gitlab", gitlab)
    (tmp_path / "report.md").write_text(TWO)
    monkeypatch.setattr(sys, "argv", ["comment.py", str(tmp_path / "report.md")])
    exec(re.search(r"```python\n(.*?)```", GITLAB, re.S)[1], {})
    gitlab.Gitlab.assert_called_once_with("https://gitlab.com", private_token="secret")
    assert [note.save.called for note in notes.list()] == [body == ONE for body in existing]
    if ONE in existing:
        assert notes.list()[-1].body == TWO and not notes.create.called
    else:
        notes.create.assert_called_once_with({"body": TWO})


def test_the_workflows_are_valid(tmp_path):
    """By the schemas that GitHub and GitLab publish."""
    check = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema"]
    subprocess.run([*check, "vendor.github-workflows", *WORKFLOWS.values()], check=True)
    job = tmp_path / ".gitlab-ci.yml"
    job.write_text(re.search(r"```yaml\n(.*?)```", GITLAB, re.S)[1])
    subprocess.run([*check, "vendor.gitlab-ci", "--data-transform", "gitlab-ci", job], check=True)


def test_workflows_that_run_a_fork_s_code_may_not_write_and_the_one_that_writes_runs_none():
    read = {name: yaml.safe_load(file.read_text()) for name, file in WORKFLOWS.items()}
    for name in ("tests", "report"):
        assert read[name]["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in "".join(file.read_text() for file in WORKFLOWS.values())
    assert read["comment"]["permissions"]["pull-requests"] == "write"
    steps = read["comment"]["jobs"]["comment"]["steps"]
    (checkout,) = [step for step in steps if step.get("uses", "").startswith("actions/checkout")]
    assert "with" not in checkout  # the main branch, not the run's
    assert read["comment"][True]["workflow_run"]["workflows"] == [
        read["report"]["name"]
    ]  # YAML reads `on` as true


def test_no_text_from_outside_is_in_a_shell_command():
    """Expressions are expanded before the shell reads the line; a branch may be called $(anything)."""
    for file in WORKFLOWS.values():
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            assert not [step["run"] for step in job["steps"] if "${{" in step.get("run", "")]
