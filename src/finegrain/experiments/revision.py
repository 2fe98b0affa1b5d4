"""A side of ``finegrain diff``: what a revision holds, read without checking it out.

By dvc, which knows experiments by name and finds a file in git, in its cache or in a remote.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from finegrain.comparison import leaderboard
from finegrain.core import paths
from finegrain.core.errors import UserError
from finegrain.evaluation import predictions
from finegrain.experiments import git
from finegrain.experiments.results import ModelResults, RevisionResults

WORKSPACE = "workspace"
THIS_BRANCH = "this branch"
"""Its last commit."""
LOCK = Path("dvc.lock")
DATA_STAGES = ("download", "split", "pack")


Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]
"""Part of a file's name and of what is printed: a revision may be a stranger's."""


class _Dataset(BaseModel):
    name: Name


class _StoredParams(BaseModel):
    """Where the results are; params.yaml of another time need not be valid by today's rules."""

    dataset: _Dataset
    models: list[Name]
    seeds: list[int] | None = None
    """None: of a time before there were seeds."""


class _UnseededRun(paths.Run):
    """A training of a time before there were seeds."""

    @property
    def name(self) -> str:
        return self.model


class NoSuchRevision(UserError):
    """There is none of that name."""


class _RevisionFiles:
    """The project's files at a revision."""

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

    def read(self, file: Path, cure: str) -> bytes:
        """The bytes of a file.

        Args:
            cure: what to do where it is not to be had.
        """
        try:
            return bytes(self._files.read_bytes(str(file)))
        except Exception as error:  # each kind of remote raises its own, as botocore's NoCredentialsError
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            where = "in git, DVC's cache or a remote"
            raise UserError(f"{self.name}: {file} is not to be found {where} ({reason}); {cure}") from None

    def result(self, file: Path) -> bytes:
        """The bytes of a file that a stage has made."""
        if self.commit is None or self.name == THIS_BRANCH:
            return self.read(file, "`dvc repro` makes it, `dvc pull` fetches it")
        again = f"`git checkout {self.commit[:7]}`, `dvc repro` and `dvc exp save -n again`"
        cure = "`dvc fetch --all-commits` brings it here if a remote has it; else make it again"
        return self.read(file, f"{cure} ({again}) and compare with `again`")

    def mapping(self, file: Path, cure: str) -> dict[str, Any]:
        """A YAML file, as DVC reads it: PyYAML would take the 1e-06 that DVC writes for text."""
        from dvc.exceptions import DvcException
        from dvc.utils.serialize import parse_yaml

        content = self.read(file, cure)
        try:
            found = parse_yaml(content.decode(), str(file))
        except (DvcException, UnicodeDecodeError) as error:
            raise UserError(f"{self.name}: {file} is not YAML ({' '.join(str(error).split())})") from None
        if not isinstance(found, dict):
            raise UserError(f"{self.name}: {file} is no mapping of keys to values")
        return found


class _NoPredictions(UserError):
    """A side's predictions are not to be had."""


def read_revisions(*names: str) -> list[RevisionResults]:
    """The sides that the user calls by these names: branches, tags, commits or experiments, or ``workspace``.

    Where the predictions of one are not to be had, all are read from git alone, which holds what is right and
    what is wrong, but not which images these are.

    Raises:
        UserError: no such revision, or its results are not to be had.
    """
    trees = [_RevisionFiles(name) for name in names]
    try:
        return [_results(tree, _predictions) for tree in trees]
    except _NoPredictions as error:
        try:
            return [replace(_results(tree, _correctness), nameless=str(error)) for tree in trees]
        except _NoPredictions:
            raise error from None


@dataclass(frozen=True)
class ValidationResult:
    """How well a revision's winner does on the validation images."""

    top1: float
    loss: float
    images: int


def revision_exists(name: str) -> bool:
    """Whether a branch, tag, commit or experiment is called so."""
    try:
        _RevisionFiles(name)
    except NoSuchRevision:
        return False
    return True


def validation_result(name: str) -> ValidationResult:
    """The validation result of a revision, from git alone.

    Raises:
        NoRevision: there is none of that name. UserError: it has no results.
    """
    tree = _RevisionFiles(name)
    try:
        asked = _StoredParams.model_validate(tree.mapping(paths.PARAMS, "name a revision of this project"))
        board = json.loads(tree.result(paths.LEADERBOARD))
        best = board["models"][board["winner"]]
        split = json.loads(tree.result(paths.Dataset(asked.dataset.name).split_metrics))
        return ValidationResult(best["val_top1"], best["val_loss"], split["images"]["val"])
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{name}: {paths.LEADERBOARD} or the split's metrics are not whole ({error!r})"
        ) from None


def _results(
    tree: _RevisionFiles, answers: Callable[[_RevisionFiles, paths.Run], pd.DataFrame]
) -> RevisionResults:
    """Args: answers: the ``path``, ``class`` and answer ``class_1`` of every test image in one training."""
    parameters = tree.mapping(paths.PARAMS, "name a revision of this project, in its folder")
    try:
        asked = _StoredParams.model_validate(parameters)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{tree.name}: params.yaml: {where}: {first['msg']}") from None
    dataset = asked.dataset.name
    runs = {
        model: [_UnseededRun(dataset, model, 0)]
        if asked.seeds is None
        else [paths.Run(dataset, model, seed) for seed in asked.seeds]
        for model in asked.models
    }
    kept = {run.name: answers(tree, run) for each in runs.values() for run in each}
    try:
        leaderboard.require_same_images(kept)
    except UserError as error:
        raise UserError(f"{tree.name}: {error}") from None
    names = [run.name for each in runs.values() for run in each]
    inputs, stale = _recorded_inputs(tree.mapping(LOCK, "commit it"), names, dataset, parameters)
    return RevisionResults(
        name=tree.name,
        commit=tree.commit,
        images=kept[names[0]][["path", "class"]],
        models={model: _model_results(tree, each, kept) for model, each in runs.items()},
        parameters=parameters,
        inputs=inputs,
        stale=stale,
    )


def _predictions(tree: _RevisionFiles, run: paths.Run) -> pd.DataFrame:
    try:
        content = tree.result(run.predictions)
    except UserError as error:
        raise _NoPredictions(str(error)) from None
    if tree.commit is None and _md5_in(tree.mapping(LOCK, "commit it"), run) not in (None, _md5(content)):
        raise UserError(
            f"{tree.name}: {run.predictions} is not what {LOCK} records; `dvc checkout` brings that, "
            "`dvc repro` makes it anew"
        )
    try:
        return predictions.parse_predictions(io.BytesIO(content))
    except (OSError, ValueError) as error:
        raise UserError(f"{tree.name}: {run.predictions} is not a Parquet file ({error})") from None


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _md5_in(lock: Mapping[str, Any], run: paths.Run) -> str | None:
    """Of a training's predictions, by dvc.lock; None where it does not say."""
    outs = lock.get("stages", {}).get(f"evaluate@{run.name}", {}).get("outs", [])
    return next((out["md5"] for out in outs if out["path"] == str(run.predictions)), None)


def _correctness(tree: _RevisionFiles, run: paths.Run) -> pd.DataFrame:
    """From git; of a commit that has no such file, from the predictions."""
    try:
        content = tree.result(run.right)
    except UserError:
        return predictions.anonymize(_predictions(tree, run))
    try:
        return predictions.parse_correct(content)
    except ValueError as error:
        raise UserError(f"{tree.name}: {run.right} is not what evaluate writes ({error})") from None


def _model_results(
    tree: _RevisionFiles, runs: Sequence[paths.Run], kept: Mapping[str, pd.DataFrame]
) -> ModelResults:
    top1, loss = [], []
    for run in runs:
        try:
            validated = json.loads(tree.result(run.metrics))["val"]
            top1.append(validated["top1"])
            loss.append(validated["loss"])
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"{tree.name}: {run.metrics} is not a training's metrics ({error!r})") from None
    answers = np.stack([kept[run.name]["class_1"].to_numpy(object) for run in runs])
    return ModelResults(answers, float(np.mean(top1)), float(np.mean(loss)))


def _recorded_inputs(
    lock: Mapping[str, Any], runs: Sequence[str], dataset: str, parameters: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """What dvc.lock says the results were made of: ``Side.inputs``, and ``Side.stale``."""
    stages = [*DATA_STAGES, *(f"{stage}@{run}" for stage in ("train", "evaluate") for run in runs)]
    data = {str(paths.Dataset(dataset).archive): "archive", str(paths.Dataset(dataset).manifest): "split"}
    inputs: dict[str, str] = {}
    stale: set[str] = set()
    for facts in (lock.get("stages", {}).get(stage, {}) for stage in stages):
        for file in facts.get("deps", []):
            if file["path"].startswith("src/"):
                inputs[file["path"]] = file["md5"]
            elif file["path"] in data:
                inputs[data[file["path"]]] = file["md5"]
        for key, value in facts.get("params", {}).get(str(paths.PARAMS), {}).items():
            if _lookup(parameters, key) != value:
                stale.add(key)
    return inputs, sorted(stale)


def _lookup(tree: Any, key: str) -> Any:
    """The value of a key such as ``dataset.name``; None where there is none."""
    for step in key.split("."):
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree
