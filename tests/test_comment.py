"""One comment a pull request, by the clients that GitHub's and GitLab's users have, against servers here."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from pipeline import ROOT

from finegrain.experiments import pull_request

WORKFLOWS = {file.stem: file for file in (ROOT / ".github/workflows").glob("*.yml")}
GITLAB = (ROOT / "docs/PULL_REQUESTS.md").read_text()
PAGE = 30
ONE, TWO = (f"{pull_request.MARKER}\n{pull_request.base_marker('main')}\n{text}" for text in ("one", "two"))


@dataclass
class Forge:
    """A server with the pull request 7, and its comments."""

    url: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    head: str = "someone:change"
    sha: str = "a" * 40
    written: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)

    def bodies(self) -> list[str]:
        return [comment["body"] for comment in self.comments]

    def add(self, body: str, kind: str = "Bot") -> dict[str, Any]:
        number = len(self.comments) + 1
        api = f"{self.url}/repos/o/r/issues/comments/{number}"
        self.comments.append({"id": number, "body": body, "user": {"type": kind}, "url": api})
        return self.comments[-1]

    def pulls(self, head: str) -> list[dict[str, Any]]:
        api = f"{self.url}/repos/o/r/issues/7"
        pull = {
            "number": 7,
            "issue_url": api,
            "head": {"sha": self.sha},
            "base": {"ref": "main"},
            "url": f"{self.url}/pulls/7",
        }
        return [pull] if head == self.head else []


class Handler(BaseHTTPRequestHandler):
    forge: Forge

    def _any(self) -> None:
        forge, (path, query) = self.forge, urlsplit(self.path)[2:4]
        asked = parse_qs(query)
        forge.tokens.add(self.headers.get("Authorization") or self.headers.get("PRIVATE-TOKEN") or "")
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size) or "{}").get("body", "")
        if self.command != "GET":
            forge.written.append((self.command, path))
        answer: Any
        headers = {}
        if path == "/repos/o/r/pulls":
            answer = forge.pulls(asked["head"][0])
        elif re.fullmatch("/repos/o/r/issues/7/comments|/api/v4/projects/3/merge_requests/7/notes", path):
            if self.command == "POST":
                answer = forge.add(body)
            else:
                page = int(asked.get("page", ["1"])[0])
                answer = forge.comments[(page - 1) * PAGE : page * PAGE]
                if len(forge.comments) > page * PAGE:
                    headers["Link"] = f'<{forge.url}{path}?page={page + 1}>; rel="next"'
        elif found := re.fullmatch(r"/.*/(?:comments|notes)/(\d+)", path):
            answer = forge.comments[int(found[1]) - 1]
            answer["body"] = body
        else:
            self.send_error(404)
            return
        content = json.dumps(answer).encode()
        self.send_response(201 if self.command == "POST" else 200)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_PUT = _any

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def forge() -> Iterator[Forge]:
    made = Forge()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"forge": made}))
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()


def run(script: str, folder: Path, report: str, environment: dict[str, str], code: int = 0) -> str:
    (folder / "report.md").write_text(report)
    (folder / "comment.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "comment.py", "report.md"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def on_github(forge: Forge, folder: Path, report: str, code: int = 0, sha: str = "a" * 40) -> str:
    owner, branch = forge.head.split(":")
    event = {"head_repository": {"owner": {"login": owner}}, "head_branch": branch, "head_sha": sha}
    (folder / "event.json").write_text(json.dumps({"workflow_run": event}))
    environment = {
        "GITHUB_API_URL": forge.url,
        "GITHUB_EVENT_PATH": str(folder / "event.json"),
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_TOKEN": "secret",
    }
    return run((ROOT / ".github/comment.py").read_text(), folder, report, environment, code)


def test_the_first_report_of_a_fork_is_a_comment_and_the_next_replaces_it(forge, tmp_path):
    forge.add(f"{pull_request.MARKER}\nquoted by somebody", kind="User")
    for number in range(PAGE):
        forge.add(f"other bot's {number}")
    others = forge.bodies()
    assert on_github(forge, tmp_path, ONE) == "pull request 7: comment created\n"
    assert on_github(forge, tmp_path, TWO) == "pull request 7: comment updated\n"
    assert forge.bodies() == [*others, TWO]
    assert [method for method, _ in forge.written] == ["POST", "PATCH"]
    assert forge.tokens <= {"token secret", "Bearer secret"}


def test_a_report_that_a_newer_commit_has_overtaken_says_nothing(forge, tmp_path):
    assert "nothing to say" in on_github(forge, tmp_path, ONE, sha="b" * 40)
    assert not forge.written


def test_a_report_against_another_base_is_not_this_pull_request_s(forge, tmp_path):
    """The same branch may be proposed to a release too."""
    other = f"{pull_request.MARKER}\n{pull_request.base_marker('release/1')}\none"
    assert "nothing to say" in on_github(forge, tmp_path, other)
    assert not forge.written


@pytest.mark.parametrize("report", ["hello", f"{pull_request.MARKER}\n{'x' * 65_536}"])
def test_what_is_no_report_is_not_posted(forge, tmp_path, report):
    assert "is not what `finegrain review` writes" in on_github(forge, tmp_path, report, code=1)
    assert not forge.written


def test_on_gitlab_as_the_docs_say(forge, tmp_path):
    script = re.search(r"```python\n(.*?)```", GITLAB, re.S)[1]
    environment = {
        "CI_SERVER_URL": forge.url,
        "CI_PROJECT_ID": "3",
        "CI_MERGE_REQUEST_IID": "7",
        "REPORT_TOKEN": "secret",
    }
    forge.add("other")
    for report in (ONE, TWO):
        run(script, tmp_path, report, environment)
    assert forge.bodies() == ["other", TWO]
    assert [method for method, _ in forge.written] == ["POST", "PUT"] and forge.tokens == {"secret"}


def test_the_workflows_are_valid(tmp_path):
    """By the schemas that the services publish."""
    check = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema"]
    subprocess.run([*check, "vendor.github-workflows", *WORKFLOWS.values()], check=True)
    job = tmp_path / ".gitlab-ci.yml"
    job.write_text(re.search(r"```yaml\n(.*?)```", GITLAB, re.S)[1])
    subprocess.run([*check, "vendor.gitlab-ci", "--data-transform", "gitlab-ci", job], check=True)


def test_what_runs_a_stranger_s_code_may_not_write_and_what_writes_runs_none():
    read = {name: yaml.safe_load(file.read_text()) for name, file in WORKFLOWS.items()}
    for name in ("tests", "report"):
        assert read[name]["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in "".join(file.read_text() for file in WORKFLOWS.values())
    assert read["comment"]["permissions"]["pull-requests"] == "write"
    (checkout,) = [
        step
        for step in read["comment"]["jobs"]["comment"]["steps"]
        if step.get("uses", "").startswith("actions/checkout")
    ]
    assert "with" not in checkout  # the main branch, not the run's
    assert read["comment"][True]["workflow_run"]["workflows"] == [read["report"]["name"]]  # `on` is a yes


def test_no_text_from_outside_stands_in_a_shell_command():
    """An expression is put in before the shell reads the line; a branch may be called $(anything)."""
    for file in WORKFLOWS.values():
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            assert not [step["run"] for step in job["steps"] if "${{" in step.get("run", "")]
