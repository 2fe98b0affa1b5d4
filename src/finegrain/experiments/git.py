"""Where a branch comes from, by git, in a shallow clone too."""

import subprocess

from finegrain.core.errors import UserError


def merge_base(base: str) -> str:
    """The commit at which the current one left ``base``: their merge base.

    What ``base`` has got since is not this branch's doing. A shallow clone, as continuous integration makes
    it, is completed first; a branch that is not here is fetched from ``origin``.

    Raises:
        UserError: there is no such branch or commit, or no common one.
    """
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
        raise UserError(f"{base} and this branch have no commit in common; give another one") from None


def reject_subfolder() -> None:
    """DVC looks for a revision's files from the top of its git repository alone.

    Raises:
        UserError: the current folder lies in a larger repository.
    """
    try:
        where = run_git("rev-parse", "--show-prefix")
    except UserError:
        return  # no git repository: DVC says so
    if where:
        raise UserError(
            f"{where}: a folder of a larger git repository; finegrain's diff, review and sweep compare "
            "commits of a project that is a repository of its own"
        )


def is_clean() -> bool:
    """Whether the files that git keeps are as committed."""
    return not run_git("status", "--porcelain", "--untracked-files=no")


def has_changed(commit: str, path: str) -> bool:
    """Whether a file that git keeps is not as it was in a commit."""
    done = subprocess.run(["git", "diff", "--quiet", commit, "--", path], capture_output=True)
    return done.returncode != 0


def _commit(name: str) -> str | None:
    try:
        return run_git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except UserError:
        return None


def run_git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise UserError("git is not installed; install it") from None
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split()) or f"status {error.returncode}"
        raise UserError(f"`git {words[0]}` has failed: {reason}") from None
    return done.stdout.strip()
