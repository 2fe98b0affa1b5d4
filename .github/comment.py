"""Put a report into its pull request: one comment, which later reports of the same pull request replace.

Workflow comment.yml runs this after workflow report.yml, whose code anyone may have written. Nothing of that
run is executed here: its report is text, and GitHub says which pull request it belongs to.
"""

import json
import os
import sys
from pathlib import Path
from urllib.parse import quote

from github import Auth, Github
from github.PullRequest import PullRequest
from github.Repository import Repository

MARKER = "<!-- finegrain review -->"
MAX_LENGTH = 65_536
"""Characters that GitHub allows in a comment."""


def main() -> None:
    report = Path(sys.argv[1]).read_text(encoding="utf-8")
    if not report.startswith(MARKER) or len(report) > MAX_LENGTH:
        sys.exit(
            f"error: {sys.argv[1]} is not what `finegrain review` writes; see the run of workflow report"
        )
    run = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text())["workflow_run"]
    token = Auth.Token(os.environ["GITHUB_TOKEN"])
    github = Github(auth=token, base_url=os.environ["GITHUB_API_URL"], lazy=True)
    pulls = pull_requests(github.get_repo(os.environ["GITHUB_REPOSITORY"]), run, report)
    for pull in pulls:
        print(f"pull request {pull.number}: comment {post(pull, report)}")
    if not pulls:
        print(f"no open pull request of this base has {run['head_sha']} as its last commit: nothing to do")


def pull_requests(repository: Repository, run: dict, report: str) -> list[PullRequest]:
    """The open pull requests of a run's last commit into the base that the report names in its second line.

    GitHub's event of a fork's run names none. A report for an earlier commit belongs to none any more.
    """
    head = f"{run['head_repository']['owner']['login']}:{run['head_branch']}"
    base = report.splitlines()[1:2]
    return [
        pull
        for pull in repository.get_pulls(state="open", head=head)
        if pull.head.sha == run["head_sha"] and base == [f"<!-- base {quote(pull.base.ref, safe='')} -->"]
    ]


def post(pull: PullRequest, report: str) -> str:
    """Replace the comment of an earlier report, or add one; returns ``updated`` or ``created``."""
    for comment in pull.get_issue_comments():
        if comment.user.type == "Bot" and comment.body.startswith(MARKER):
            comment.edit(report)
            return "updated"
    pull.create_issue_comment(report)
    return "created"


if __name__ == "__main__":
    main()
