"""Stages whose results are not those of the code and the parameters beside them, by dvc.lock alone.

`dvc status` says it too, but only where all data are; in a pull request's clone there are none.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finegrain.core.errors import UserError

CHANGES = {"modified": "has changed", "new": "is new", "deleted": "is missing"}


def stale_stages() -> dict[str, list[str]]:
    """Each stage of the current folder that `dvc repro` would run on its own account, and why.

    A stage that reads what such a stage makes is not named unless it differs itself. Outs that DVC keeps need
    not be here; those that git keeps must be, as they were made.

    Raises:
        UserError: DVC cannot read dvc.yaml or dvc.lock.
    """
    os.environ["DVC_NO_ANALYTICS"] = "1"
    from dvc.repo import Repo

    try:
        index = Repo().index
        _ = index.stages
    except Exception as error:  # also the TypeError of a matrix over what is no list
        reason = " ".join(str(error).split())
        raise UserError(f"DVC cannot read this project: {reason}; `dvc status` says more") from None
    made = {out.fs_path: out for out in index.outs}
    found = {stage.addressing: list(_reasons(stage, made)) for stage in index.stages}
    return {name: reasons for name, reasons in found.items() if reasons}


def _reasons(stage: Any, made: dict[str, Any]) -> Iterator[str]:
    from dvc.dependency import ParamsDependency

    if not any(out.hash_info for out in stage.outs):
        yield "it has not run"
        return
    if stage.changed_stage():
        yield "its command in dvc.yaml has changed"
    for each in stage.deps:
        if isinstance(each, ParamsDependency):
            for file, changes in each.status().items():
                yield from _describe(changes if isinstance(changes, dict) else {file: changes})
        elif each.fs_path not in made:
            if Path(each.fs_path).is_file():  # not a folder that several stages fill
                yield from _describe(each.workspace_status())
        elif each.hash_info != made[each.fs_path].hash_info:
            yield f"{each.def_path} is not the one that it has read"
    for out in stage.outs:
        if not out.hash_info:
            yield f"{out.def_path} is new"
        elif not out.use_cache:
            yield from _describe(out.workspace_status())


def _describe(changes: dict[str, str]) -> Iterator[str]:
    for name, change in changes.items():
        yield f"{name} {CHANGES.get(change, change)}"
