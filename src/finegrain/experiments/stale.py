"""Stages whose results do not match the current code and parameters, judged by dvc.lock alone.

`dvc status` reports them too, but only where all data are present; the clone of a pull request has none.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finegrain.core.errors import UserError

CHANGES = {"modified": "has changed", "new": "is new", "deleted": "is missing"}
"""DVC's word for a change, and how a reason ends."""


def stale_stages() -> dict[str, list[str]]:
    """Each stage of the current folder that `dvc repro` would run because of its own inputs, and the reasons.

    A stage that reads the output of such a stage is listed only if its own inputs differ too. Outputs that
    DVC keeps may be absent; those that git keeps must be present and unchanged.

    Raises:
        UserError: DVC cannot read dvc.yaml or dvc.lock.
    """
    os.environ["DVC_NO_ANALYTICS"] = "1"
    from dvc.repo import Repo

    try:
        index = Repo().index
        _ = index.stages
    except (
        Exception
    ) as error:  # DVC raises many kinds, even TypeError for a matrix over a value that is no list
        reason = " ".join(str(error).split())
        raise UserError(f"DVC cannot read this project: {reason}; `dvc status` prints more") from None
    outs = {out.fs_path: out for out in index.outs}
    reasons = {stage.addressing: list(_reasons(stage, outs)) for stage in index.stages}
    return {name: found for name, found in reasons.items() if found}


def _reasons(stage: Any, outs: Mapping[str, Any]) -> Iterator[str]:
    """Why `dvc repro` would run a stage; ``outs`` are the outputs of all stages by path."""
    if not any(out.hash_info for out in stage.outs):
        yield "it has not run"
        return
    if stage.changed_stage():
        yield "its command in dvc.yaml has changed"
    for dependency in stage.deps:
        yield from _changes_of_dependency(dependency, outs)
    for out in stage.outs:
        if not out.hash_info:
            yield f"{out.def_path} is new"
        elif not out.use_cache and out.can_push:  # links to local files are on one machine only
            yield from _describe(out.workspace_status())


def _changes_of_dependency(dependency: Any, outs: Mapping[str, Any]) -> Iterator[str]:
    from dvc.dependency import ParamsDependency

    if isinstance(dependency, ParamsDependency):
        for file, changes in dependency.status().items():
            yield from _describe(changes if isinstance(changes, dict) else {file: changes})
    elif out := outs.get(dependency.fs_path):
        if dependency.hash_info != out.hash_info:
            yield f"{dependency.def_path} is not the one that it read"
    elif not _holds_outputs(dependency.fs_path, outs):
        if dependency.hash_info:
            yield from _describe(dependency.workspace_status())
        else:
            yield f"{dependency.def_path} is new"


def _holds_outputs(folder: str, outs: Mapping[str, Any]) -> bool:
    """Whether stages write into a folder: in a clone without data it is incomplete, which is no change."""
    return any(Path(out).is_relative_to(folder) for out in outs)


def _describe(changes: Mapping[str, str]) -> Iterator[str]:
    for name, change in changes.items():
        yield f"{name} {CHANGES.get(change, change)}"
