"""The command ``finegrain review``: what a branch changes, as one comment for its pull request.

It reads committed files and trains nothing, so it needs no GPU and no data. Without credentials for DVC's
remote, the verdicts come from the files that git holds (``predictions.correct_rows``).
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
from finegrain.core.errors import UserError, some
from finegrain.experiments import difference, git, markdown, revision, revision_files, stale
from finegrain.experiments.difference import Difference
from finegrain.experiments.results import RevisionResults

MARKER = "<!-- finegrain review -->"
"""First line of the comment, by which a later review finds and replaces it."""
LOG_LINES, LOG_COLUMNS = 40, 500
"""How much of a log's end is quoted: lines, and characters of each."""


def base_marker(base: str) -> str:
    """Second line of the comment: a branch may be proposed to several bases, each with its own comment."""
    return f"<!-- base {quote(base, safe='')} -->"


@dataclass(frozen=True)
class BranchReview:
    """What a branch changes against its base."""

    base: str
    """The user's name for the base."""
    commit: str
    """The commit at which the branch left the base."""
    stale_stages: Mapping[str, Sequence[str]]
    """Stages whose results do not match the code and parameters, and why."""
    difference: Difference | None
    """None means that there is nothing to compare, for ``reason``."""
    reason: str | None
    results: RevisionResults | None
    """The branch's own; None means that it has none, for ``reason``."""

    @property
    def failed(self) -> bool:
        """Whether the branch has no results, or results of other code or parameters."""
        return self.results is None or bool(self.stale_stages)


def run(args: argparse.Namespace) -> int:
    """Review, write and print; returns the exit status: 1 if results are missing or out of date.

    With ``--fail-if-worse`` it is 1 if a model is significantly worse, too.
    """
    review = review_branch(args.base)
    text = comment(review, args)
    if args.out:
        file_io.write_text(args.out, text)
    print(text, end="", flush=True)
    worse = review.difference is not None and review.difference.worse
    return int(review.failed or (args.fail_if_worse and worse))


def review_branch(base: str) -> BranchReview:
    """Review the last commit, or the workspace if files that git tracks have changed since."""
    commit = git.merge_base(base)
    stale_stages: Mapping[str, Sequence[str]] = {}
    own = revision_files.THIS_BRANCH if git.is_clean() else revision_files.WORKSPACE
    try:
        stale_stages = stale.stale_stages()
        (results,) = revision.read_revisions(own)
    except UserError as error:
        return BranchReview(base, commit, stale_stages, None, str(error), None)
    stale_stages = {**stale_stages, **_stale_leaderboard(results)}
    try:
        before, after = (_rename_base(each, commit, base) for each in revision.read_revisions(commit, own))
        found = difference.compare_revisions(before, after)
    except UserError as error:
        return BranchReview(base, commit, stale_stages, None, str(error).replace(commit, base), results)
    return BranchReview(base, commit, stale_stages, found, None, after)


def _rename_base(results: RevisionResults, commit: str, base: str) -> RevisionResults:
    """The same results with the base's name, which a reviewer knows, in place of its commit."""
    reason = results.anonymous_reason and results.anonymous_reason.replace(commit, base)
    return replace(results, name=base if results.name == commit else results.name, anonymous_reason=reason)


def _stale_leaderboard(results: RevisionResults) -> dict[str, list[str]]:
    """Stage compare and the reason, if the leaderboard does not match the predictions.

    dvc.lock cannot show that: the stage depends on folders, which may hold more than the stages' outputs.
    """
    if not paths.LEADERBOARD.is_file():
        return {}  # it is a missing output, which ``stale_stages`` reports, or the project has none
    top1 = {name: float(results.correct(name).mean()) for name in results.models}
    try:
        board = file_io.read_json(paths.LEADERBOARD)["models"]
        same = board.keys() == top1.keys() and all(
            math.isclose(board[name]["test_top1"], value, abs_tol=1e-9) for name, value in top1.items()
        )
    except (UserError, LookupError, TypeError, AttributeError):  # such as after a merge with conflicts
        same = False
    return {} if same else {"compare": [f"{paths.LEADERBOARD} does not match these predictions"]}


def comment(review: BranchReview, args: argparse.Namespace) -> str:
    """Markdown of at most ``args.limit`` characters: what exceeds that is left out from the end."""
    blocks, dropped = list(_blocks(review, args)), 0
    command = f"`finegrain review {review.base} --limit 1000000`"
    while True:
        rest = f"\n\n{dropped} more parts are left out here; {command} shows them." if dropped else ""
        text = "\n\n".join(blocks) + rest + "\n"
        if len(text) <= args.limit or len(blocks) < 3:
            return text
        blocks.pop()
        dropped += 1


def _blocks(review: BranchReview, args: argparse.Namespace) -> Iterator[str]:
    """The parts of the comment, the most important first."""
    yield f"{MARKER}\n{base_marker(review.base)}\n## {_headline(review)}"
    if review.reason:
        yield markdown.escape(review.reason)
    if review.stale_stages:
        yield from _stale_block(review.stale_stages)
    if args.log:
        yield _folded("How the run ended", _code_block(_end_of_log(args.log)))
    if review.difference:
        yield from markdown.summary(review.difference)
    elif review.results:
        yield markdown.results_table(review.results)
    if review.results and (figures := list(_figures(review.results, review.commit, args.files_at))):
        yield "### Figures"
        yield from figures
    for kind in ("params", "metrics"):
        table = _dvc_diff(kind, review.commit).replace(review.commit, review.base)
        yield _folded(f"<code>dvc {kind} diff</code>", table)
    if review.difference:
        for change in (change for change in review.difference.changes if not change.unchanged):
            title, *parts = markdown.model_details(change, review.difference, args.images)
            yield _folded(f"{title}: classes and images", "\n\n".join(parts))


def _headline(review: BranchReview) -> str:
    if review.results is None:
        return "No results to judge"
    if review.stale_stages:
        return "The results are not those of this code"
    if review.difference is None:
        return f"Nothing to compare with {markdown.inline_code(review.base)}"
    return markdown.verdict_line(review.difference)


def _stale_block(stages: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield "`dvc repro` would run these stages again. Run it, then commit dvc.lock and the results:"
    by_reason: dict[str, list[str]] = {}
    for stage, reasons in stages.items():
        by_reason.setdefault(", ".join(reasons), []).append(markdown.inline_code(stage))
    yield "\n".join(f"- {some(names, 20)}: {markdown.escape(reason)}" for reason, names in by_reason.items())


def _figures(results: RevisionResults, commit: str, files_at: str) -> Iterator[str]:
    """The figures that are new or have changed since a commit.

    Args:
        files_at: address of this commit's files: a comment can show only figures that git holds.
    """

    def show(name: str, file: Path) -> str:
        if git.has_changed("HEAD", str(file)):  # the address would show an older figure, or none
            return f"{markdown.inline_code(str(file))} is not yet committed."
        return f"![{name}]({files_at}{file})"

    def has_changed(file: Path) -> bool:
        return file.is_file() and git.has_changed(commit, str(file))

    epochs = sum(phase.get("epochs", 1) for phase in results.parameters.get("phases", {}).values())
    figures = ["curves.png"] * (epochs != 1)  # a single point is no curve, as of a phase that is solved
    figures += ["accuracy_vs_time.png"] * (len(results.models) > 1)  # one model alone has no trade-off
    yield from (show(file.stem, file) for name in figures if has_changed(file := paths.REPORTS / name))
    dataset, seeds = results.parameters["dataset"]["name"], results.parameters.get("seeds", [])
    for model in results.models:
        runs = [paths.Run(dataset, model, seed) for seed in seeds[:1]]
        files = [file for run in runs for file in (run.confusion, run.reliability)]
        if lines := [show(f"{file.parent.name} of {model}", file) for file in files if has_changed(file)]:
            yield _folded(f"{model}: confusion, reliability", "\n".join(lines))


def _dvc_diff(kind: str, commit: str) -> str:
    """The table that `dvc params diff` or `dvc metrics diff` prints."""
    words = [sys.executable, "-m", "dvc", kind, "diff", "--md", commit]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        return _code_block(done.stderr.strip()[-2000:])
    rows = done.stdout.strip()
    return rows if rows.count("\n") > 1 else "No difference."


def _end_of_log(log: Path) -> str:
    """The last lines of a log, without colors, empty lines, and progress that was overwritten."""
    try:
        text = log.read_bytes().decode(errors="replace")
    except OSError as error:
        raise UserError(f"--log {log}: {error.strerror}; give the file that holds the run's output") from None
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [line.rsplit("\r", 1)[-1] for line in plain.split("\n")]
    return "\n".join([line[:LOG_COLUMNS] for line in lines if line.strip()][-LOG_LINES:])


def _code_block(text: str) -> str:
    """Any text as it is, even if it contains code fences."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"
