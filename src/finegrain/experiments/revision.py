"""Read the results of revisions without checking them out."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from finegrain.comparison import leaderboard
from finegrain.config.messages import describe_first
from finegrain.core import paths
from finegrain.core.errors import UserError
from finegrain.evaluation import predictions
from finegrain.experiments.results import ModelResults, RevisionResults
from finegrain.experiments.revision_files import NoSuchRevision, RevisionFiles

DATA_STAGES = ("inputs", "download", "split", "pack")


Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]
"""A name that is safe in a file name and in a comment: anyone may have written the revision."""


class _Dataset(BaseModel):
    name: Name


class _StoredParams(BaseModel):
    """The parameters that locate results; the params.yaml of an old revision may be invalid today."""

    dataset: _Dataset
    models: list[Name]
    seeds: list[int] | None = None
    """None means a revision from before runs had seeds."""
    choose_by: Literal["top1", "mean_class_accuracy", "macro_f1", "loss"] = "top1"

    def runs(self) -> dict[str, list[paths.Run]]:
        """The runs of each model."""
        if self.seeds is None:
            return {model: [_UnseededRun(self.dataset.name, model, 0)] for model in self.models}
        return {
            model: [paths.Run(self.dataset.name, model, seed) for seed in self.seeds] for model in self.models
        }


class _UnseededRun(paths.Run):
    """A run from before runs had seeds."""

    @property
    def name(self) -> str:
        return self.model


class _PredictionsNotFound(UserError):
    """The predictions of a revision are neither in git nor in DVC's cache nor in a remote."""


def read_revisions(*names: str) -> list[RevisionResults]:
    """The results of branches, tags, commits, experiments, or of the ``workspace``.

    If the predictions of one are not found, all are read from git alone, which holds whether each prediction
    is correct but not which image it is for.

    Raises:
        UserError: there is no such revision, or its results are not found.
    """
    revisions = [RevisionFiles(name) for name in names]
    try:
        return [_read_results(files, _read_predictions) for files in revisions]
    except _PredictionsNotFound as error:
        try:
            anonymous = [_read_results(files, _read_correct) for files in revisions]
        except _PredictionsNotFound:
            raise error from None
        return [replace(results, anonymous_reason=str(error)) for results in anonymous]


@dataclass(frozen=True)
class ValidationResult:
    """The validation result of a revision's winner."""

    metric: str
    """The metric that chooses."""
    value: float
    """Value of that metric."""
    loss: float
    images: int
    """Number of validation images."""


def revision_exists(name: str) -> bool:
    """Whether there is a branch, tag, commit or experiment of that name."""
    try:
        RevisionFiles(name)
    except NoSuchRevision:
        return False
    return True


def validation_result(name: str) -> ValidationResult:
    """The validation result of a revision, from git alone.

    Raises:
        NoSuchRevision: there is no revision of that name.
        UserError: it has no results.
    """
    files = RevisionFiles(name)
    try:
        parameters = files.read_yaml(paths.PARAMS, "give a revision of this project")
        dataset = paths.Dataset(_StoredParams.model_validate(parameters).dataset.name)
        board = json.loads(files.read_result(paths.LEADERBOARD))
        best = board["models"][board["winner"]]
        split = json.loads(files.read_result(dataset.split_summary))
        metric = board.get("choose_by", "top1")
        return ValidationResult(metric, best[f"val_{metric}"], best["val_loss"], split["images"]["val"])
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{name}: {paths.LEADERBOARD} or {dataset.split_summary} is incomplete ({error!r}); "
            "run `dvc repro` there"
        ) from None


def _read_results(
    files: RevisionFiles, read_run: Callable[[RevisionFiles, paths.Run], pd.DataFrame]
) -> RevisionResults:
    """The results of a revision.

    Args:
        read_run: returns ``path``, ``class`` and the predicted ``class_1`` of each test image in one run.
    """
    parameters = files.read_yaml(paths.PARAMS, "give a revision of this project, in its folder")
    try:
        stored = _StoredParams.model_validate(parameters)
    except ValidationError as error:
        raise UserError(f"{files.name}: params.yaml: {describe_first(error)}") from None
    runs = stored.runs()
    tables = {run.name: read_run(files, run) for each in runs.values() for run in each}
    try:
        leaderboard.require_same_images(tables)
    except UserError as error:
        raise UserError(f"{files.name}: {error}") from None
    models = {model: _model_results(files, each, tables) for model, each in runs.items()}
    known = all(stored.choose_by in model.validation for model in models.values())
    inputs, changed = _recorded_inputs(files.lock, list(tables), stored.dataset.name, parameters)
    return RevisionResults(
        name=files.name,
        commit=files.commit,
        images=next(iter(tables.values())).filter(["path", "class", "sha256"]),
        models=models,
        parameters=parameters,
        inputs=inputs,
        stale_parameters=changed,
        choose_by=stored.choose_by if known else "top1",  # older results have no other metric of validation
    )


def _read_predictions(files: RevisionFiles, run: paths.Run) -> pd.DataFrame:
    """The predictions of a run; those of the workspace must be the ones that dvc.lock records."""
    try:
        content = files.read_result(run.predictions)
    except UserError as error:
        raise _PredictionsNotFound(str(error)) from None
    _require_recorded(files, run, run.predictions, content, "`dvc checkout` restores that")
    try:
        return predictions.parse_predictions(io.BytesIO(content))
    except (OSError, ValueError) as error:
        raise UserError(f"{files.name}: {run.predictions} is not a Parquet file ({error})") from None


def _require_recorded(files: RevisionFiles, run: paths.Run, file: Path, content: bytes, remedy: str) -> None:
    """Check that a file of the workspace that stage evaluate writes is the one that dvc.lock records, if any.

    Raises:
        UserError: it is another file, as after `git checkout` without `dvc checkout`.
    """
    if files.commit is not None:
        return
    outs = files.lock.get(f"evaluate@{run.name}", {}).get("outs", [])
    recorded = next((out["md5"] for out in outs if out["path"] == str(file)), None)
    if recorded not in (None, hashlib.md5(content, usedforsecurity=False).hexdigest()):
        raise UserError(
            f"{files.name}: {file} is not the file that dvc.lock records; {remedy}, "
            "`dvc repro` makes it again"
        )


def _read_correct(files: RevisionFiles, run: paths.Run) -> pd.DataFrame:
    """Which predictions are correct, from git; in a commit without that file, from the predictions."""
    try:
        content = files.read_result(run.correct)
    except UserError:
        return predictions.anonymize(_read_predictions(files, run))
    try:
        return predictions.parse_correct(content)
    except ValueError as error:
        raise UserError(f"{files.name}: {run.correct} is not what evaluate writes ({error})") from None


def _model_results(
    files: RevisionFiles, runs: Sequence[paths.Run], tables: Mapping[str, pd.DataFrame]
) -> ModelResults:
    validations: list[dict[str, float]] = []
    for run in runs:
        file, content = _read_run_results(files, run)
        _require_recorded(files, run, file, content, f"`git checkout -- {file}` may restore that")
        try:
            validation = json.loads(content)["val"]
            validations.append({"top1": validation["top1"], "loss": validation["loss"], **validation})
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"{files.name}: {file} is not the results of a run ({error!r})") from None
    shared = set(validations[0]).intersection(*validations)
    means = {metric: float(np.mean([each[metric] for each in validations])) for metric in shared}
    each = [tables[run.name] for run in runs]
    losses = np.stack([table["loss"] for table in each]) if all("loss" in table for table in each) else None
    return ModelResults(np.stack([table["class_1"].to_numpy(object) for table in each]), means, losses)


def _read_run_results(files: RevisionFiles, run: paths.Run) -> tuple[Path, bytes]:
    """The file that holds the results of a run, and its content."""
    try:
        return run.results, files.read_result(run.results)
    except UserError as missing:
        try:
            content = files.read_result(run.metrics)
        except UserError:
            raise missing from None
        if b'"val"' not in content:  # only a commit from before results had a file of their own has it there
            raise missing from None
        return run.metrics, content


def _recorded_inputs(
    recorded_stages: Mapping[str, Any], runs: Sequence[str], dataset: str, parameters: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """What the results were made from, by dvc.lock.

    Returns:
        ``RevisionResults.inputs``: the md5 of each script and package of the code, of the archive, the
        corrections and the split; and ``RevisionResults.stale_parameters``.
    """
    stages = [*DATA_STAGES, *(f"{stage}@{run}" for stage in ("train", "evaluate") for run in runs)]
    files = paths.Dataset(dataset)
    data = {str(files.archive): "archive", str(files.manifest): "split"}
    data[str(files.corrections_inputs)] = "corrections"
    inputs: dict[str, str] = {}
    changed: set[str] = set()
    for recorded in (recorded_stages.get(stage, {}) for stage in stages):
        for dependency in recorded.get("deps", []):
            path = dependency["path"]
            if path.startswith("src/") or path in data:
                inputs[data.get(path, path)] = dependency["md5"]
        for key, value in recorded.get("params", {}).get(str(paths.PARAMS), {}).items():
            if _lookup(parameters, key) != value:
                changed.add(key)
    return inputs, sorted(changed)


def _lookup(tree: Any, key: str) -> Any:
    """The value of a dotted key such as ``dataset.name``; None if there is none."""
    for step in key.split("."):
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree
