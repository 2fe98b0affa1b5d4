"""Test results of a model that this project has trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finegrain.config import params
from finegrain.config.training import EvaluateParams
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.serving import find_model


@dataclass(frozen=True)
class TestResults:
    """The project's results of a model; a field is None if its file does not exist."""

    metrics: dict[str, Any]
    """reports/<name>/results/<run>.json, which always exists."""
    intervals: dict[str, tuple[float, float]] | None
    """reports/<name>/intervals/<run>.json."""
    split: dict[str, Any] | None
    """reports/<name>/split.json."""
    source: dict[str, Any] | None
    """reports/<name>/source.json."""
    evaluate: EvaluateParams | None
    """``evaluate`` in params.yaml, by which the test images were evaluated."""


def find_run(weights: Path) -> paths.Run | None:
    """The run of this project that wrote the weights; None for a file from elsewhere, whatever its name."""
    try:
        run = paths.Run.from_name(weights.parent.name, weights.stem)
    except ValueError:
        return None
    return run if run.weights.resolve() == weights.resolve() else None


def find_results(weights: Path, metadata: dict[str, Any]) -> TestResults | None:
    """Read the test results of a model; None if this project has none.

    Args:
        metadata: content of the model's sidecar.

    Raises:
        UserError: the results belong to another training of the run, or the split to other images.
    """
    run = find_run(weights)
    metrics = _read_optional(run.results) if run else None
    if run is None or metrics is None:
        return None
    if problem := find_model.unrecorded((run.weights, run.sidecar)):
        raise UserError(f"{run.results}: not the results of this model: {problem}")
    if metrics["temperature"] != metadata["temperature"]:
        raise UserError(
            f"{run.results}: not the results of {weights}, which is newer or older; run `dvc repro`"
        )
    data = paths.Dataset(run.dataset)
    split = _read_optional(data.split_summary)
    if split and not metadata.get("data", "").startswith(split["sha256"]):
        raise UserError(f"{data.split_summary}: not the split that {weights} was trained on; run `dvc repro`")
    config = params.load_params() if paths.PARAMS.is_file() else None
    return TestResults(
        metrics=metrics,
        intervals=_read_optional(run.intervals),
        split=split,
        source=_read_optional(data.source),
        evaluate=config.evaluate if config and config.dataset.name == run.dataset else None,
    )


def _read_optional(file: Path) -> Any:
    return file_io.read_json(file) if file.is_file() else None
