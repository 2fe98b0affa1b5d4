"""The project's files at a revision, read without checking it out.

DVC does the reading: it knows experiments by name, and finds a file in git, in its cache or in a remote.
"""

import functools
import os
from pathlib import Path
from typing import Any

from finegrain.core.errors import UserError
from finegrain.experiments import git

WORKSPACE = "workspace"
THIS_BRANCH = "this branch"
"""The last commit of the current branch."""


class NoSuchRevision(UserError):
    """There is no branch, tag, commit or experiment of that name."""


class RevisionFiles:
    """The project's files at a revision.

    Raises:
        NoSuchRevision: there is no revision of that name.
    """

    def __init__(self, name: str) -> None:
        os.environ["DVC_NO_ANALYTICS"] = "1"
        from dvc.api import DVCFileSystem
        from dvc.config import Config
        from dvc.exceptions import DvcException

        self.name = name
        git.reject_subfolder()
        try:
            remote = Config.from_cwd()["core"].get("remote")  # today's: an old revision may have had none
            revision = {WORKSPACE: None, THIS_BRANCH: "HEAD"}.get(name, name)
            self._files = DVCFileSystem(rev=revision, remote=remote)
            self.commit: str | None = None if name == WORKSPACE else self._files.repo.get_rev()
        except DvcException as error:
            reason = " ".join(str(error).split())
            raise NoSuchRevision(
                f"{name}: {reason}; give a branch, tag or commit, or an experiment "
                "(`dvc exp list --all --name-only`), in the project's folder"
            ) from None

    def read(self, file: Path, remedy: str) -> bytes:
        """The content of a file.

        Args:
            remedy: what the user can do if the file is not found, for the error message.
        """
        try:
            return bytes(self._files.read_bytes(str(file)))
        except (
            Exception
        ) as error:  # each kind of remote raises its own, such as botocore's NoCredentialsError
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            where = "in git, DVC's cache or a remote"
            raise UserError(f"{self.name}: {file} not found {where} ({reason}); {remedy}") from None

    @functools.cached_property
    def lock(self) -> dict[str, Any]:
        """The content of dvc.lock, by stage."""
        stages = self.read_yaml(Path("dvc.lock"), "commit it").get("stages", {})
        return stages if isinstance(stages, dict) else {}

    def read_result(self, file: Path) -> bytes:
        """The content of a file that a stage has written."""
        if self.commit is None or self.name == THIS_BRANCH:
            return self.read(file, "`dvc repro` makes it, `dvc pull` fetches it")
        again = f"`git checkout {self.commit[:7]}`, `dvc repro` and `dvc exp save -n again`"
        remedy = "`dvc fetch --all-commits` fetches it if a remote has it; otherwise make it again"
        return self.read(file, f"{remedy} ({again}) and compare with `again`")

    def read_yaml(self, file: Path, remedy: str) -> dict[str, Any]:
        """A mapping that DVC parses: PyYAML would read 1e-06, which DVC writes, as text."""
        from dvc.exceptions import DvcException
        from dvc.utils.serialize import parse_yaml

        content = self.read(file, remedy)
        try:
            parsed = parse_yaml(content.decode(), str(file))
        except (DvcException, UnicodeDecodeError) as error:
            raise UserError(f"{self.name}: {file} is not YAML ({' '.join(str(error).split())})") from None
        if not isinstance(parsed, dict):
            raise UserError(f"{self.name}: {file} must be a mapping of keys to values")
        return parsed
