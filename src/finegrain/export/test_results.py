"""What the project measured of a model that it trained itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finegrain.config import params
from finegrain.config.training import EvaluateParams
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError


@dataclass(frozen=True)
class TestResults:
    """Each file but the first may be missing."""

    metrics: dict[str, Any]
    """metrics/<name>/<run>.json."""
    intervals: dict[str, tuple[float, float]] | None
    """reports/<name>/intervals/<run>.json."""
    split: dict[str, Any] | None
    """metrics/<name>/data/split.json."""
    source: dict[str, Any] | None
    """metrics/<name>/data/source.json."""
    evaluate: EvaluateParams | None
    """How the test images were asked."""


def run_of(weights: Path) -> paths.Run | None:
    """The run of this project that made the file; None of a file from elsewhere, whatever its name."""
    try:
        run = paths.Run.named(weights.parent.name, weights.stem)
    except ValueError:
        return None
    return run if run.weights.resolve() == weights.resolve() else None


def find_results(weights: Path, facts: dict[str, Any]) -> TestResults | None:
    """None where nothing was measured here.

    Args:
        facts: the sidecar of the weights.

    Raises:
        UserError: the metrics are of another training, or the split is of other images.
    """
    run = run_of(weights)
    metrics = _read_optional(run.metrics) if run else None
    if run is None or metrics is None:
        return None
    if metrics["temperature"] != facts["temperature"]:
        raise UserError(f"{run.metrics}: is of another training than {weights}; run `dvc repro`")
    data = paths.Dataset(run.dataset)
    split = _read_optional(data.split_metrics)
    if split and not facts.get("data", "").startswith(split["sha256"]):
        raise UserError(f"{data.split_metrics}: is of another split than {weights}; run `dvc repro`")
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
