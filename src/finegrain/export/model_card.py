"""The model card: what a stranger must know of a model, and nothing that the project's files do not say."""

import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData

from finegrain.comparison import formatting
from finegrain.export.onnx_graph import LOGIT_TOLERANCE, Agreement
from finegrain.export.test_results import TestResults
from finegrain.serving import hub

TEMPLATE = Path(__file__).with_name("model_card.md.j2")
NAMED_CLASSES = 8
"""In the first sentence; labels.txt has all."""


@dataclass(frozen=True)
class ModelCard:
    name: str
    facts: dict[str, Any]
    """The sidecar."""
    parameters: int
    license: str
    agreement: Agreement
    compared_on: str
    """Such as ``108 test images``."""
    results: TestResults | None
    """None: nothing was measured here."""
    versions: dict[str, str]
    """Of the packages that made the graph."""

    @property
    def dataset(self) -> str | None:
        found = self.facts["recipe"].get("dataset")
        return found if isinstance(found, str) else None


@dataclass(frozen=True)
class _Metric:
    key: str
    """In the metrics file, below ``test``."""
    name: str
    kind: str
    """Of the Hub's list, where it has one."""
    share: bool
    """Shown in per cent."""


METRICS = (
    _Metric("top1", "top-1 accuracy", "accuracy", True),
    _Metric("top5", "top-5 accuracy", "accuracy", True),
    _Metric("macro_f1", "macro-F1", "f1", True),
    _Metric("mean_class_accuracy", "mean class accuracy", "accuracy", True),
    _Metric("loss", "loss (nats an image)", "loss", False),
    _Metric("ece", "calibration error as trained", "expected_calibration_error", True),
    _Metric("calibrated_loss", "loss with the temperature", "loss", False),
    _Metric("calibrated_ece", "calibration error with the temperature", "expected_calibration_error", True),
)


def render_card(card: ModelCard) -> str:
    """Markdown with the Hub's metadata in front."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"md": escape_markdown, "percent": formatting.percent}
    environment.filters |= {"count": formatting.count, "size": formatting.size}
    facts = card.facts
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card=card,
        facts=facts,
        agreement=card.agreement,
        results=card.results,
        metadata=metadata(card).to_yaml().strip(),
        origin=_origin(facts),
        asked=_test_settings(card),
        chosen=_epoch_choice(facts),
        recipe=yaml.safe_dump(
            facts["recipe"], sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
        ),
        rows=list(_rows(card.results)) if card.results else [],
        sides=list(dict.fromkeys((facts["pack_image_size"], facts["image_size"]))),
        files=hub,
        named=NAMED_CLASSES,
        tolerance=LOGIT_TOLERANCE,
    )


def _origin(facts: dict[str, Any]) -> str:
    """A sentence: the weights that training began with."""
    weights = facts["recipe"].get("weights")
    if not isinstance(weights, str):
        return "What weights its training began with was not recorded."
    if weights == "none":
        return "It was trained from random weights."
    if Path(weights).suffix:
        return f"Its training began with the weights of the file {escape_markdown(weights)}."
    return f"Its training began with torchvision's weights {escape_markdown(weights)}."


def _test_settings(card: ModelCard) -> str:
    """How the test images were seen, where that is known."""
    evaluate = card.results.evaluate if card.results else None
    if evaluate is None:
        return ""
    side = evaluate.image_size or card.facts["image_size"]
    mirrored = ", the logits averaged with those of the mirror image" if evaluate.flip else ""
    return f", seen at {side} pixels{mirrored}"


def _epoch_choice(facts: dict[str, Any]) -> str:
    """A sentence: which weights of the training these are."""
    if facts["refit"]:
        return "Validation chose the epochs and rates; then it was trained anew on train and validation."
    if "best_epoch" not in facts:
        return "Which epoch was kept was not recorded."
    return f"Validation chose epoch {facts['best_epoch']}."


def metadata(card: ModelCard) -> ModelCardData:
    """What the Hub reads: the model in its lists, and its results on test in their tables."""
    results = list(_eval_results(card)) if card.results and card.dataset else None
    return ModelCardData(
        license=card.license,
        library_name="finegrain",
        pipeline_tag="image-classification",
        tags=["finegrain", "torchvision", "onnx", card.facts["model"]],
        datasets=[card.dataset] if card.dataset else None,
        metrics=sorted({metric.kind for metric in METRICS}) if results else None,
        model_name=card.name if results else None,
        eval_results=results,
    )


def _eval_results(card: ModelCard) -> Iterator[EvalResult]:
    assert card.results and card.dataset
    source = card.results.source
    for metric in METRICS:
        yield EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=card.dataset,
            dataset_name=card.dataset,
            dataset_split="test",
            dataset_revision=source["sha256"] if source else None,
            metric_type=metric.kind,
            metric_name=metric.name,
            metric_value=card.results.metrics["test"][metric.key],
        )


def _rows(results: TestResults) -> Iterator[tuple[str, str, str]]:
    """Name, value and 95 % interval of each metric, as they are shown."""
    for metric in METRICS:
        value = results.metrics["test"][metric.key]
        low_high = (results.intervals or {}).get(metric.key)
        shown = [f"{x:.3f}" if not metric.share else formatting.percent(x, 1) for x in low_high or ()]
        yield (
            metric.name,
            formatting.percent(value) if metric.share else f"{value:.3f}",
            " to ".join(shown) or "not known",
        )


_MARKS = str.maketrans({mark: f"\\{mark}" for mark in string.punctuation if mark not in "+-,.:;'\"/%=?@"})


def escape_markdown(words: object) -> str:
    """Names from folders and files as one line of Markdown that is text and nothing else."""
    return " ".join(str(words).split()).translate(_MARKS)
