"""The model card, written from the project's files alone."""

import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData

from finegrain.comparison import formatting
from finegrain.comparison.next_steps import trained_by_epochs
from finegrain.config import weights as weights_names
from finegrain.config.base import ImageFit
from finegrain.config.training import HeadParams
from finegrain.export.onnx_graph import LOGIT_TOLERANCE, Agreement
from finegrain.export.test_results import TestResults
from finegrain.serving import hub

TEMPLATE = Path(__file__).with_name("model_card.md.j2")
NAMED_CLASSES = 8
"""How many classes the first sentence lists; labels.txt lists all."""
FITS: dict[ImageFit, str] = {
    "squash": "Each photo is resized, whatever its aspect ratio, to",
    "crop": "Only the center square of each photo is seen, resized to",
    "letterbox": "Each photo is resized, with a border on two sides unless it is square, to",
}
"""How a photo becomes a square, to precede its size."""


@dataclass(frozen=True)
class ModelCard:
    """The content of a model card."""

    name: str
    metadata: dict[str, Any]
    """The content of the model's sidecar."""
    parameters: int
    license: str
    """The Hub's identifier, or ``unknown``."""
    agreement: Agreement
    """How the ONNX graph compares with the network."""
    compared_on: str
    """The images of that comparison, such as ``all 108 test images``."""
    results: TestResults | None
    """None if the project has not evaluated the model."""
    versions: dict[str, str]
    """Versions of the packages that wrote the graph."""

    @property
    def dataset(self) -> str | None:
        name = self.metadata["recipe"].get("dataset")
        return name if isinstance(name, str) else None


@dataclass(frozen=True)
class _Metric:
    """A test metric on the card."""

    key: str
    """Below ``test`` in the metrics file."""
    name: str
    """Name on the card."""
    hub_type: str
    """Name on the Hub: from its own list where that has the metric."""
    as_percent: bool


METRICS = (
    _Metric("top1", "top-1 accuracy", "accuracy", True),
    _Metric("top5", "top-5 accuracy", "accuracy", True),
    _Metric("macro_f1", "macro-F1", "f1", True),
    _Metric("mean_class_accuracy", "mean class accuracy", "accuracy", True),
    _Metric("loss", "cross-entropy loss", "loss", False),
    _Metric("ece", "expected calibration error", "expected_calibration_error", True),
    _Metric("calibrated_loss", "cross-entropy loss, calibrated", "loss", False),
    _Metric("calibrated_ece", "expected calibration error, calibrated", "expected_calibration_error", True),
)


def render_card(card: ModelCard) -> str:
    """Render the card as Markdown, with the Hub's metadata as YAML in front."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"md": escape_markdown, "percent": formatting.percent}
    environment.filters |= {"count": formatting.count, "size": formatting.size}
    metadata = card.metadata
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card=card,
        metadata=metadata,
        agreement=card.agreement,
        results=card.results,
        hub_metadata=hub_metadata(card).to_yaml().strip(),
        architecture=_architecture(metadata),
        origin=_origin(metadata),
        choice=_choice(card),
        test_settings=_test_settings(card),
        epoch_choice=_epoch_choice(metadata),
        fit=FITS[metadata["pack_fit"]],
        recipe=yaml.safe_dump(
            metadata["recipe"], sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
        ),
        rows=list(_metric_rows(card.results)) if card.results else [],
        files=hub,
        named_classes=NAMED_CLASSES,
        tolerance=LOGIT_TOLERANCE,
    )


def _origin(metadata: dict[str, Any]) -> str:
    """A sentence on the initial weights of the training."""
    weights = metadata["recipe"].get("weights")
    if not isinstance(weights, str):
        return "Its initial weights were not recorded."
    if weights == "none":
        return "It was trained from random weights."
    begun = metadata.get("initial_weights", {})
    weights = begun.get("name", weights)
    if weights_names.is_torchvision(weights):
        source = "torchvision's weights"
    elif weights_names.hub_repository(weights):
        source = "the weights of the Hub's repository"
    else:
        source = "the trained model" if "head" in begun else "the weights of the file"
    phases = metadata["recipe"].get("phases", {}).values()
    done = "was fine-tuned from"
    if phases and all("solve" in phase for phase in phases):
        done = "keeps all layers but the last of"
    kept = f", with its head for {begun['kept_classes']:,} classes" if "kept_classes" in begun else ""
    digest = f" (SHA-256 `{begun['sha256']}`)" if "sha256" in begun else ""
    return f"It {done} {source} {escape_markdown(weights)}{digest}{kept}."


def _architecture(metadata: dict[str, Any]) -> str:
    """The network, and what was changed in it."""
    head = HeadParams.model_validate(metadata["recipe"]["head"])
    name = escape_markdown(metadata["model"])
    if head.pool != "covariance":
        return name
    return f"{name} up to {head.stages[-1]}, with covariance pooling of {' and '.join(head.stages)},"


def _test_settings(card: ModelCard) -> str:
    """The image size and the flip of the evaluation, where they are known, to follow "test images"."""
    evaluate = card.results.evaluate if card.results else None
    if evaluate is None:
        return ""
    size = evaluate.image_size or card.metadata["image_size"]
    flip = ", with the logits averaged over each image and its horizontal flip" if evaluate.flip else ""
    return f", at {size} pixels{flip}"


def _choice(card: ModelCard) -> str:
    """The validation metric that chose, if it is another one than top-1, to follow that."""
    metric = card.metadata["recipe"].get("choose_by", "top1")
    value = card.results.metrics["val"].get(metric) if card.results else None
    if metric == "top1" or value is None:
        return ""
    return f", and {formatting.METRIC_NAMES[metric]}, which decided, {formatting.metric_value(metric, value)}"


def _epoch_choice(metadata: dict[str, Any]) -> str:
    """How the weights were chosen among those of all epochs, and the last layer."""
    if solved := metadata.get("solved"):
        estimate, trained = metadata["leave_one_out"], trained_by_epochs(metadata["recipe"])
        caveat = ", which is too high, as the other layers were trained on them" if trained else ""
        return (
            f"The last layer is the solution of a ridge regression with strength "
            f"{list(solved.values())[-1]['strength']:g}. Predicted by the solution without them, "
            f"{formatting.percent(estimate['top1'])} of the {estimate['images']:,} images that it was solved "
            f"on are correct (leave-one-out top-1){caveat}."
        )
    if metadata["refit"]:
        return (
            "The number of epochs and the learning rates were chosen on validation images; then the model "
            "was retrained on training and validation images."
        )
    if "best_epoch" not in metadata:
        return "The epoch of these weights was not recorded."
    return f"The weights are those of epoch {metadata['best_epoch']}, the best on validation images."


def hub_metadata(card: ModelCard) -> ModelCardData:
    """The metadata by which the Hub lists the model and shows its test results."""
    results = list(_eval_results(card)) if card.results and card.dataset else None
    return ModelCardData(
        license=card.license,
        library_name="finegrain",
        pipeline_tag="image-classification",
        tags=["finegrain", "torchvision", "onnx", card.metadata["model"]],
        datasets=[card.dataset] if card.dataset else None,
        metrics=sorted({metric.hub_type for metric in METRICS}) if results else None,
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
            metric_type=metric.hub_type,
            metric_name=metric.name,
            metric_value=card.results.metrics["test"][metric.key],
        )


def _metric_rows(results: TestResults) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and 95 % interval of each metric, formatted."""
    for metric in METRICS:
        value = results.metrics["test"][metric.key]
        interval = (results.intervals or {}).get(metric.key) or ()
        bounds = [formatting.percent(x, 1) if metric.as_percent else f"{x:.3f}" for x in interval]
        yield (
            metric.name,
            formatting.percent(value) if metric.as_percent else f"{value:.3f}",
            " to ".join(bounds) or "not known",
        )


_ESCAPES = str.maketrans({mark: f"\\{mark}" for mark in string.punctuation if mark not in "+-,.:;'\"/%=?@"})


def escape_markdown(value: object) -> str:
    """The value as one line of Markdown without markup: names of folders and files may contain anything."""
    return " ".join(str(value).split()).translate(_ESCAPES)
