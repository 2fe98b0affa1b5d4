"""Put a report into its pull request: one comment, which later reports of the same pull request replace.

Started by workflow comment.yml after workflow report.yml, whose code may be a stranger's: nothing of that run
is executed here, its report is text, and which pull request it belongs to is asked of GitHub.
"""

import json
import os
import sys
from pathlib import Path
from urllib.parse import quote

from github import Auth, Github
from github.PullRequest import PullRequest

MARK = "<!-- finegrain review -->"
MOST = 65_536
"""Characters that GitHub takes in a comment."""


def main() -> None:
    report = Path(sys.argv[1]).read_text(encoding="utf-8")
    if not report.startswith(MARK) or len(report) > MOST:
        sys.exit(
            f"error: {sys.argv[1]} is not what `finegrain review` writes; see the run of workflow report"
        )
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text())["workflow_run"]
    token = Auth.Token(os.environ["GITHUB_TOKEN"])
    github = Github(auth=token, base_url=os.environ["GITHUB_API_URL"], lazy=True)
    repository = github.get_repo(os.environ["GITHUB_REPOSITORY"])
    # GitHub does not name the pull request of a fork's run
    head = f"{event['head_repository']['owner']['login']}:{event['head_branch']}"
    found = [p for p in repository.get_pulls(state="open", head=head) if p.head.sha == event["head_sha"]]
    base = report.splitlines()[1:2]
    found = [pull for pull in found if base == [f"<!-- base {quote(pull.base.ref, safe='')} -->"]]
    for pull in found:
        print(f"pull request {pull.number}: comment {post(pull, report)}")
    if not found:
        print(f"no open pull request of this base has {event['head_sha']} as its last commit: nothing to say")


def post(pull: PullRequest, report: str) -> str:
    """Returns ``updated`` or ``created``."""
    for comment in pull.get_issue_comments():
        if comment.user.type == "Bot" and comment.body.startswith(MARK):
            comment.edit(report)
            return "updated"
    pull.create_issue_comment(report)
    return "created"


if __name__ == "__main__":
    main()
