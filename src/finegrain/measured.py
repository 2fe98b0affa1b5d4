"""What the project measured of a model that it trained itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finegrain import params, paths, record
from finegrain.errors import UserError
from finegrain.recipe import Evaluate


@dataclass(frozen=True)
class Measured:
    """Each file but the first may be missing."""

    metrics: dict[str, Any]
    """metrics/<name>/<run>.json."""
    intervals: dict[str, tuple[float, float]] | None
    """reports/<name>/intervals/<run>.json."""
    split: dict[str, Any] | None
    """metrics/<name>/data/split.json."""
    source: dict[str, Any] | None
    """metrics/<name>/data/source.json."""
    evaluate: Evaluate | None
    """How the test images were asked."""


def run_of(weights: Path) -> paths.Run | None:
    """The run of this project that made the file; None of a file from elsewhere, whatever its name."""
    try:
        run = paths.Run.named(weights.parent.name, weights.stem)
    except ValueError:
        return None
    return run if run.weights.resolve() == weights.resolve() else None


def find(weights: Path, facts: dict[str, Any]) -> Measured | None:
    """None where nothing was measured here.

    Args:
        facts: the sidecar of the weights.

    Raises:
        UserError: the metrics are of another training, or the split is of other images.
    """
    run = run_of(weights)
    metrics = _read(run.metrics) if run else None
    if run is None or metrics is None:
        return None
    if metrics["temperature"] != facts["temperature"]:
        raise UserError(f"{run.metrics}: is of another training than {weights}; run `dvc repro`")
    data = paths.Data(run.dataset)
    split = _read(data.split_metrics)
    if split and not facts.get("data", "").startswith(split["sha256"]):
        raise UserError(f"{data.split_metrics}: is of another split than {weights}; run `dvc repro`")
    config = params.read() if paths.PARAMS.is_file() else None
    return Measured(
        metrics=metrics,
        intervals=_read(run.intervals),
        split=split,
        source=_read(data.source),
        evaluate=config.evaluate if config and config.dataset.name == run.dataset else None,
    )


def _read(file: Path) -> Any:
    return record.read_json(file) if file.is_file() else None
