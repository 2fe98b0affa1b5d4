"""``finegrain review``: what a branch changes, as one comment for its pull request.

It reads what is committed and trains nothing, so it needs no GPU, no data, and, where DVC's remote cannot be
read, no credentials: verdicts are then made of what git holds (``predictions.right``).
"""

import argparse
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.experiments import difference, git, markdown, revision, stale
from finegrain.experiments.difference import Difference
from finegrain.experiments.results import RevisionResults

MARKER = "<!-- finegrain review -->"
"""First line of the comment, by which it is found again."""
LOG_LINES, LOG_COLUMNS = 40, 500
"""Of a log's end, so many, each so wide."""
FIGURES = ("curves.png", "accuracy_vs_time.png")


def base_marker(base: str) -> str:
    """The comment's second line: a branch may be proposed to several, each with a report of its own."""
    return f"<!-- base {quote(base, safe='')} -->"


@dataclass(frozen=True)
class BranchReview:
    """What there is to say of a branch."""

    base: str
    """As the user calls it."""
    commit: str
    """Where the branch left it."""
    outdated: Mapping[str, Sequence[str]]
    difference: Difference | None
    """None: there is nothing to compare, by ``reason``."""
    reason: str | None
    after: RevisionResults | None
    """None: the branch has no results, by ``reason``."""

    @property
    def failed(self) -> bool:
        """Whether the branch lacks results, or has those of other code or parameters."""
        return self.after is None or bool(self.outdated)


def run(args: argparse.Namespace) -> int:
    """Look, write, print; returns the exit status: 1 where results are missing or out of date.

    ``--fail-if-worse``: also where a model is significantly worse.
    """
    found = review_branch(args.base)
    text = comment(found, args)
    if args.out:
        file_io.write_text(args.out, text)
    print(text, end="", flush=True)
    worse = found.difference is not None and found.difference.worse
    return int(found.failed or (args.fail_if_worse and worse))


def review_branch(base: str) -> BranchReview:
    """What is committed, or, where files that git keeps are changed, what lies in the folder."""
    commit = git.merge_base(base)
    outdated: Mapping[str, Sequence[str]] = {}
    own = revision.THIS_BRANCH if git.is_clean() else revision.WORKSPACE
    try:
        outdated = stale.stale_stages()
        (alone,) = revision.read_revisions(own)
    except UserError as error:
        return BranchReview(base, commit, outdated, None, str(error), None)
    outdated = {**outdated, **_not_of_its_predictions(alone)}
    try:
        before, after = (_rename_base(side, commit, base) for side in revision.read_revisions(commit, own))
        return BranchReview(base, commit, outdated, difference.compare_revisions(before, after), None, after)
    except UserError as error:
        return BranchReview(base, commit, outdated, None, str(error).replace(commit, base), alone)


def _rename_base(side: RevisionResults, commit: str, base: str) -> RevisionResults:
    """By the name that a reviewer knows."""
    nameless = side.nameless and side.nameless.replace(commit, base)
    return replace(side, name=base if side.name == commit else side.name, nameless=nameless)


def _not_of_its_predictions(side: RevisionResults) -> dict[str, list[str]]:
    """Stage compare, where the leaderboard beside the predictions is of others.

    Its deps are folders, which dvc.lock alone cannot tell: they may hold more than the stages' outs.
    """
    if not paths.LEADERBOARD.is_file():
        return {}  # told as a missing out, or the project has none
    top1 = {name: float(side.right(name).mean()) for name in side.models}
    try:
        board = file_io.read_json(paths.LEADERBOARD)["models"]
        same = board.keys() == top1.keys() and all(
            math.isclose(board[name]["test_top1"], value, abs_tol=1e-9) for name, value in top1.items()
        )
    except (UserError, LookupError, TypeError, AttributeError):  # as after a merge with conflicts
        same = False
    return {} if same else {"compare": [f"{paths.LEADERBOARD} is not of these predictions"]}


def comment(found: BranchReview, args: argparse.Namespace) -> str:
    """Markdown of at most ``args.limit`` characters: what does not fit is left out from the end."""
    blocks, dropped = list(_blocks(found, args)), 0
    whole = f"`finegrain review {found.base} --limit 1000000` shows"
    while True:
        rest = f"\n\n{dropped} more parts are left out here; {whole} them." if dropped else ""
        text = "\n\n".join(blocks) + rest + "\n"
        if len(text) <= args.limit or len(blocks) < 3:
            return text
        blocks.pop()
        dropped += 1


def _blocks(found: BranchReview, args: argparse.Namespace) -> Iterator[str]:
    told = found.difference
    yield f"{MARKER}\n{base_marker(found.base)}\n## {_headline(found)}"
    if found.reason:
        yield markdown.escape(found.reason)
    if found.outdated:
        yield from _stale_block(found.outdated)
    if args.log:
        yield _folded("How the run ended", _fenced(_tail(args.log)))
    if told:
        yield from markdown.summary(told)
    elif found.after:
        yield markdown.results_table(found.after)
    if found.after and (figures := list(_figures(found, args.files_at))):
        yield "### Figures"
        yield from figures
    for what in ("params", "metrics"):
        yield _folded(
            f"<code>dvc {what} diff</code>", _dvc_diff(what, found.commit).replace(found.commit, found.base)
        )
    if told:
        for change in (change for change in told.changes if not change.unchanged):
            title, *parts = markdown.details(change, told, args.images)
            yield _folded(f"{title}: classes and images", "\n\n".join(parts))


def _headline(found: BranchReview) -> str:
    if found.after is None:
        return "No results to judge"
    if found.outdated:
        return "The results are not those of this code"
    if found.difference is None:
        return f"Nothing to compare with {markdown.inline_code(found.base)}"
    return markdown.statement(found.difference)


def _stale_block(stages: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield "`dvc repro` would run these stages again. Run it, then commit dvc.lock and what it has made:"
    by_reason: dict[str, list[str]] = {}
    for stage, reasons in stages.items():
        by_reason.setdefault(", ".join(reasons), []).append(markdown.inline_code(stage))
    yield "\n".join(f"- {', '.join(names)}: {markdown.escape(reason)}" for reason, names in by_reason.items())


def _figures(found: BranchReview, files_at: str) -> Iterator[str]:
    """Those that git keeps and that are new or others than before: a comment can show nothing else."""
    assert found.after is not None

    def shown(name: str, file: Path) -> str:
        if git.has_changed("HEAD", str(file)):  # its address would show an older one, or none
            return f"{markdown.inline_code(str(file))} is not yet committed."
        return f"![{name}]({files_at}{file})"

    def has_changed(file: Path) -> bool:
        return file.is_file() and git.has_changed(found.commit, str(file))

    yield from (shown(f.stem, f) for f in (paths.REPORTS / name for name in FIGURES) if has_changed(f))
    dataset = found.after.parameters["dataset"]["name"]
    for model in found.after.models:
        seeds = found.after.parameters.get("seeds", [])
        files = [f for seed in seeds[:1] for f in _run_figures(paths.Run(dataset, model, seed))]
        if lines := [shown(f"{file.parent.name} of {model}", file) for file in files if has_changed(file)]:
            yield _folded(f"{model}: confusion, reliability", "\n".join(lines))


def _run_figures(run: paths.Run) -> tuple[Path, Path]:
    return run.confusion, run.reliability


def _dvc_diff(what: str, commit: str) -> str:
    words = [sys.executable, "-m", "dvc", what, "diff", "--md", commit]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        return _fenced(done.stderr.strip()[-2000:])
    rows = done.stdout.strip()
    return rows if rows.count("\n") > 1 else "No difference."


def _tail(log: Path) -> str:
    try:
        text = log.read_bytes().decode(errors="replace")
    except OSError as error:
        raise UserError(f"--log {log}: {error.strerror}; name the file that the run's output is in") from None
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [line.rsplit("\r", 1)[-1] for line in plain.split("\n")]
    return "\n".join([line[:LOG_COLUMNS] for line in lines if line.strip()][-LOG_LINES:])


def _fenced(text: str) -> str:
    """As it is, whatever is in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"
