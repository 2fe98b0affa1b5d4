"""params.yaml as typed values; no other module reads the file."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from finegrain.config.base import (
    BatchSize,
    ImageFit,
    ImageSize,
    ModelName,
    NonNegativeFloat,
    Ratio,
    Section,
)
from finegrain.config.dataset import (
    ArchiveDataset,
    Cifar100Dataset,
    KaggleDataset,
    SampleDataset,
    SplitParams,
)
from finegrain.config.messages import describe_error
from finegrain.config.phases import AnyPhase, ClassWeights, LearningRate, Phase, SolvedPhase
from finegrain.config.training import (
    AugmentParams,
    EvaluateParams,
    HeadParams,
    LRRangeTest,
    Normalization,
)
from finegrain.config.weights import Weights
from finegrain.config.yaml_text import Loader, describe_yaml_error, reject_ambiguous
from finegrain.core import paths
from finegrain.core.errors import UserError

PhaseName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=64)]
"""Part of the names of the phase's files."""
ChooseBy = Literal["top1", "mean_class_accuracy", "macro_f1", "loss"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class PackParams(Section):
    """How the decoded images are stored."""

    image_size: ImageSize
    """Every image is stored as a square of this size; larger training images gain nothing."""
    fit: ImageFit = "squash"
    """What becomes of photos that are not square, in training and in every prediction.

    squash resizes any aspect ratio to a square; crop takes the center square of the shorter side; letterbox
    takes the whole photo, on a background of ImageNet's mean color.
    """


class Params(Section):
    """The whole file. No key may be left out, because DVC reads the keys from the file, too."""

    elsewhere: ClassVar = {key: f"it belongs in a phase, as phases.NAME.{key}" for key in Phase.model_fields}
    dataset: Annotated[
        SampleDataset | KaggleDataset | ArchiveDataset | Cifar100Dataset, Field(discriminator="source")
    ]
    """Where the images come from; which keys it has depends on ``source``."""
    split: SplitParams
    """How the images are divided into train, val and test."""
    pack: PackParams
    """How the decoded images are stored."""
    models: Annotated[list[ModelName], Field(min_length=1)]
    """Networks to train and compare, by their names in torchvision."""
    weights: Weights
    """Weights to start from, the same for all models or a mapping from each model to its own.

    none means random ones; IMAGENET1K_V1 and such, torchvision's; DEFAULT, its best for each network.
    Others are a .safetensors or .pth file, the folder of a trained model, or a repository of the Hub at a
    commit, as timm/resnet50.a1_in1k@<commit>.
    """
    head: HeadParams
    """What replaces the network's last layer."""
    normalization: Normalization
    """Mean and standard deviation of each color that are subtracted and divided by.

    auto means those that the weights expect, and the train split's for random weights; imagenet and train
    choose one of them.
    """
    seed: Seed
    """Seed of the split and of the embedded sample's drawings."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Each model is trained once with each seed; two or more show the variance between seeds."""
    lr: LearningRate
    """Peak learning rate of every phase that does not set its own."""
    batch_size: BatchSize
    """Images of one training step, over all processes."""
    label_smoothing: Ratio
    """Share of the target probability that is spread evenly over all classes; 0 means none."""
    class_weights: ClassWeights
    """Weights of the images in the training loss, by class; their mean is 1.

    balanced gives every class the same sum. effective lies between that and none
    (``loading.class_weights``).
    """
    choose_by: ChooseBy
    """Validation metric that chooses the epoch whose weights are kept, stops early, and ranks the models."""
    ema_decay: Ratio | None
    """Decay of an exponential moving average of the weights, which is then validated and saved.

    null means that the weights themselves are.
    """
    augment: AugmentParams
    """Random changes to the training images."""
    phases: Annotated[dict[PhaseName, AnyPhase], Field(min_length=1)]
    """Phases by name, in the order in which they run."""
    refit: bool
    """Train again on train + val, with the number of epochs and the learning rates that validation chose.

    The weights of the last epoch are kept.
    """
    lr_range_test: LRRangeTest
    """Settings of the LR range test, which finds a learning rate."""
    evaluate: EvaluateParams
    """How a trained network is evaluated."""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """auto means a CUDA GPU if there is one, else the CPU; mps means an Apple GPU, which is untested.

    A change of this key alone trains nothing again.
    """
    devices: Annotated[int, Field(ge=1, le=1024)]
    """Processes on this machine that train one model together, each on its own GPU if there are any."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """Number format of the network's arithmetic.

    auto means bf16 autocast if the hardware multiplies it natively, fp16 autocast on any other CUDA GPU, else
    fp32. Of fp16, the gradients are scaled, and a step in which they overflow is skipped and counted.
    """
    deterministic: bool
    """true gives bit-identical results on the same kind of GPU, or an error, and is slower.

    On the CPU they always are.
    """
    checkpoint_seconds: NonNegativeFloat
    """Seconds between checkpoints, and so the most that is lost when a run is killed."""

    @model_validator(mode="after")
    def _reject_duplicates(self) -> "Params":
        lists: dict[str, list[Any]] = {"models": self.models, "seeds": self.seeds}
        for key, values in lists.items():
            if duplicates := sorted({value for value in values if values.count(value) > 1}):
                text = "{key}: {value} is listed twice"
                raise PydanticCustomError("duplicate", text, {"key": key, "value": duplicates[0]})
        return self

    @model_validator(mode="after")
    def _require_weights_of_each_model(self) -> "Params":
        if isinstance(self.weights, dict) and (missing := [m for m in self.models if m not in self.weights]):
            text = "weights.{model}: is missing; name the weights of each of the models, or none"
            raise PydanticCustomError("weights", text, {"model": missing[0]})
        return self

    def weights_of(self, model: str) -> str:
        """What ``weights`` names for a model."""
        return self.weights[model] if isinstance(self.weights, dict) else self.weights  # type: ignore[index]

    @model_validator(mode="after")
    def _require_one_kind_of_groups(self) -> "Params":
        if self.split.group and self.dataset.label_params and self.dataset.label_params.group:
            text = "give either split.group or dataset.labels.group, not both"
            raise PydanticCustomError("one_place", text)
        return self

    @model_validator(mode="after")
    def _require_padding_below_image_size(self) -> "Params":
        smallest = min((p.image_size_at(0) for p in self.trained_phases.values()), default=None)
        if smallest is not None and self.augment.pad_crop_pixels >= smallest:
            raise PydanticCustomError(
                "padding",
                "augment.pad_crop_pixels: {pixels} is not less than the smallest image size, {size}",
                {"pixels": self.augment.pad_crop_pixels, "size": smallest},
            )
        return self

    @model_validator(mode="after")
    def _require_heads_that_fit(self) -> "Params":
        name, last = list(self.phases.items())[-1]
        if last.head is not None:
            text = "phases.{name}.head: the last phase trains the top-level head; remove this key"
            raise PydanticCustomError("last_head", text, {"name": name})
        for name, phase in self.phases.items():
            if isinstance(phase, SolvedPhase) and not self.head.is_linear:
                text = "phases.{name}.solve: only a single linear layer can be solved; set head.widths and "
                text += "head.dropouts to [] and head.batch_norm to false"
                raise PydanticCustomError("not_linear", text, {"name": name})
        return self

    @model_validator(mode="after")
    def _require_images_that_fill_the_maps(self) -> "Params":
        used = {
            f"phases.{name}.image_size": (phase.image_size, phase.head or self.head)
            for name, phase in self.phases.items()
        }
        for key, (size, head) in {
            **used,
            "evaluate.image_size": (self.evaluate.image_size, self.head),
        }.items():
            smallest = size[0] if isinstance(size, tuple) else size
            if smallest is not None and smallest < head.min_image_size:
                text = "{key}: {size}: the covariance of {stage} needs at least {least} pixels"
                found = {"key": key, "size": smallest, "stage": head.stages[-1], "least": head.min_image_size}
                raise PydanticCustomError("one_place", text, found)
        return self

    @property
    def trained_phases(self) -> dict[str, Phase]:
        """The phases that take steps."""
        return {name: phase for name, phase in self.phases.items() if isinstance(phase, Phase)}

    @model_validator(mode="after")
    def _require_batches_for_devices(self) -> "Params":
        if found := self._indivisible_batch(self.devices):
            raise PydanticCustomError("devices", "{found}", {"found": found})
        return self

    def _indivisible_batch(self, processes: int) -> str | None:
        """What is wrong with the first batch size that the processes cannot share; None if nothing is."""
        sizes = [("batch_size", self.batch_size, 1)]
        for name, phase in self.trained_phases.items():
            key = "batch_size" if phase.batch_size is None else f"phases.{name}.batch_size"
            sizes.append((key, phase.batch_size or self.batch_size, phase.accumulate))
        for key, size, parts in sizes:
            if size % processes or size < 2 * processes:
                rule = f"must be a multiple of {processes} devices, with two images or more for each"
                return f"{key}: {size}: {rule}"
            if size < 2 * processes * parts:
                each = f", on each of {processes} devices" if processes > 1 else ""
                return f"{key}: {size} images are too few for accumulate: {parts}; each part needs two{each}"
        return None

    def require_divisible_batches(self, processes: int) -> None:
        """Check every batch size against the number of processes that torchrun has started.

        Raises:
            UserError: a batch size cannot be divided among them.
        """
        if found := self._indivisible_batch(processes):
            raise UserError(f"params.yaml: {found}")


def load_params(file: Path = paths.PARAMS) -> Params:
    """Read and check the whole file before any work starts.

    Raises:
        UserError: the file is missing, is not YAML, or fails ``validate``.
    """
    return validate(load_yaml(file), str(file))


def load_yaml(file: Path = paths.PARAMS) -> dict[str, Any]:
    """Read the file without checking its keys and values.

    Raises:
        UserError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        reject_ambiguous(str(file), text)
        data = yaml.load(text, Loader=Loader)
    except FileNotFoundError:
        fix = "run from the project's folder, or copy a file of recipes/ here"
        raise UserError(f"{file}: not found; {fix}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{file} line {line}: not in UTF-8; save the file as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{file} {describe_yaml_error(error)}") from None
    except (OSError, UserError):
        raise
    except Exception as error:  # PyYAML raises a dozen types, as for a number of 5,000 digits or !!bool x
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file}: not readable as YAML: {reason}") from None
    if not isinstance(data, dict):
        raise UserError(f"{file}: must be a mapping of keys to values; recipes/ has examples")
    return data


def validate(data: dict[str, Any], where: str) -> Params:
    """Convert unchecked parameters to typed values.

    Args:
        where: where the parameters come from, for the message.

    Raises:
        UserError: keys are unknown or missing, or values have a wrong type or are out of range. The message
            has a line for each, with the key, the value and what is allowed.
    """
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise UserError("\n".join(f"{where}: {describe_error(e)}" for e in error.errors())) from None
