"""Git commands that work in a shallow clone too: merge base, clean work tree, changed files."""

import subprocess

from finegrain.core.errors import UserError


def merge_base(base: str) -> str:
    """The commit at which the current branch left ``base``: their merge base.

    What ``base`` received since then is no change of this branch. A shallow clone, which continuous
    integration makes, is completed first; a branch that is not in the clone is fetched from ``origin``.

    Raises:
        UserError: there is no such branch or commit, or no common one.
    """
    reject_subfolder()
    if run_git("rev-parse", "--is-shallow-repository") == "true":
        run_git("fetch", "--quiet", "--unshallow", "origin")
    tip = _commit(base) or _commit(f"refs/remotes/origin/{base}")
    if tip is None:
        try:
            run_git("fetch", "--quiet", "origin", "--", base)
        except UserError as error:
            raise UserError(
                f"{base} is neither here nor at the remote `origin` ({error}); give a branch or commit"
            ) from None
        tip = run_git("rev-parse", "FETCH_HEAD")
    try:
        return run_git("merge-base", tip, "HEAD")
    except UserError:
        raise UserError(
            f"{base} and this branch have no commit in common; give a branch that this one started from"
        ) from None


def reject_subfolder() -> None:
    """Require that the current folder is the top of its repository: DVC looks for a revision's files there.

    Raises:
        UserError: the current folder is in no repository, or a subfolder of a larger one.
    """
    try:
        subfolder = run_git("rev-parse", "--show-prefix")
    except UserError as error:
        raise UserError(f"{error}; run this in the project's folder") from None
    if subfolder:
        raise UserError(
            f"{subfolder}: a folder of a larger git repository; finegrain's diff, review and sweep need "
            "a project in a git repository of its own"
        )


def is_clean() -> bool:
    """Whether all files that git tracks are as committed."""
    return not run_git("status", "--porcelain", "--untracked-files=no")


def has_changed(commit: str, path: str) -> bool:
    """Whether a file that git tracks differs from a commit."""
    done = subprocess.run(["git", "diff", "--quiet", commit, "--", path], capture_output=True)
    return done.returncode != 0


def _commit(name: str) -> str | None:
    """The full hash of a branch, tag or commit; None if there is none of that name."""
    try:
        return run_git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except UserError:
        return None


def run_git(*words: str) -> str:
    """The output of a git command.

    Raises:
        UserError: git is not installed, or the command failed.
    """
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise UserError("git is not installed; install it") from None
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split()) or f"status {error.returncode}"
        raise UserError(f"`git {words[0]}` failed: {reason}") from None
    return done.stdout.strip()
