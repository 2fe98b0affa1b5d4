"""The settings of params.yaml for the phases of a training: optimizers, schedules, or an exact solve."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from finegrain.config.base import (
    BatchSize,
    Epochs,
    ImageSize,
    NonNegativeFloat,
    PositiveFloat,
    Rate,
    Ratio,
    Section,
    require_order,
)
from finegrain.config.training import HeadParams

WeightDecay = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
ClassWeights = Literal["none", "balanced", "effective"]


class OptimizerParams(Section):
    """What all optimizers have in common."""

    weight_decay: WeightDecay
    """Pulls the weights towards zero in every step."""
    decay_norm_and_bias: bool = True
    """false exempts biases and the weights of norm layers from weight decay, as newer recipes do."""


class SGD(OptimizerParams):
    """``torch.optim.SGD``."""

    kind: Literal["sgd"]
    momentum: Ratio = 0.9
    """Share of the last step's direction that is kept."""
    nesterov: bool = False
    """Nesterov momentum."""
    weight_decay: WeightDecay = 0.0
    """L2 penalty: this multiple of the weights is added to their gradient."""

    @model_validator(mode="after")
    def _require_momentum_for_nesterov(self) -> "SGD":
        if self.nesterov and self.momentum == 0:
            raise PydanticCustomError("nesterov", "nesterov needs a momentum above 0")
        return self


class AdamW(OptimizerParams):
    """``torch.optim.AdamW``."""

    kind: Literal["adamw"]
    betas: Annotated[tuple[Ratio, Ratio], Field(strict=False)] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: Annotated[float, Field(ge=1e-12, le=1, allow_inf_nan=False)] = 1e-8
    """Added to the root of the squared gradient's mean before the division."""
    weight_decay: WeightDecay = 0.01
    """The weights lose this multiple of themselves, times the learning rate, in every step."""


class ConstantSchedule(Section):
    """The same learning rate in every step."""

    kind: Literal["constant"]


class StepSchedule(Section):
    """Multiply the learning rate by ``factor`` every ``every_epochs`` epochs."""

    kind: Literal["step"]
    every_epochs: Epochs
    """Epochs between two reductions."""
    factor: Annotated[float, Field(gt=0, lt=1)]
    """What the learning rate is multiplied by."""


class CosineSchedule(Section):
    """Linear warm-up from zero, then half a cosine down to zero."""

    kind: Literal["cosine"]
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs of the warm-up; parts of one are allowed."""


_Divisor = Annotated[float, Field(ge=1, le=1e12, allow_inf_nan=False)]


class OneCycleSchedule(Section):
    """Cosine up to the peak learning rate, then down to almost zero; momentum moves the other way.

    Keys and defaults are those of ``torch.optim.lr_scheduler.OneCycleLR``.
    """

    kind: Literal["one_cycle"]
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the steps before the peak."""
    div_factor: _Divisor = 25.0
    """Peak learning rate divided by the initial one."""
    final_div_factor: _Divisor = 1e4
    """Initial learning rate divided by the final one."""
    momentum_range: Annotated[tuple[Ratio, Ratio], Field(strict=False), AfterValidator(require_order)] = (
        0.85,
        0.95,
    )
    """Momentum (AdamW: the first of ``betas``) at the peak learning rate, and at the start and the end."""


# a tag that starts with @ is left out of messages (messages.describe_error): the user did not write it
LearningRate = Annotated[
    Annotated[Rate, Tag("@number or auto")] | Annotated[Literal["auto"], Tag("@auto")],
    Discriminator(lambda value: "@auto" if value == "auto" else "@number or auto"),
]
"""A number, or ``auto`` for the suggestion of an LR range test at the start of each phase."""

_ImageSizes = Annotated[
    Annotated[ImageSize, Tag("@one")]
    | Annotated[tuple[ImageSize, ImageSize], Field(strict=False), AfterValidator(require_order), Tag("@two")],
    Discriminator(lambda value: "@two" if isinstance(value, (list, tuple)) else "@one"),
]


class Phase(Section):
    """A part of the training with its own trainable parameters, image size, optimizer and schedule."""

    head: HeadParams | None = None
    """null means the top-level ``head``.

    Another one starts from random weights, on top of the network that was trained so far, and is thrown away
    when a phase with another head begins; the rest of the network is kept.
    """

    trainable: Literal["head", "head+norm", "late", "all"]
    """Parameters that train: those of the head, also those of norm layers, also those of the late layers, or
    all.

    The others have no gradient, no optimizer state and no weight decay. The late layers are layer3 and layer4
    of a ResNet; the layers before them then stay as they are, statistics of norm layers included, and need no
    backward pass.
    """
    norm_statistics: Literal["update", "frozen"] | None = None
    """Running mean and variance of the norm layers outside the head.

    null means frozen if only the head trains, else update.
    """
    epochs: Epochs
    """Passes over the training images."""
    image_size: _ImageSizes
    """Height and width of the training images in pixels.

    [first, last] grows from epoch to epoch, in between by multiples of 32.
    """
    batch_size: BatchSize | None = None
    """null means the top-level ``batch_size``."""
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1
    """Gradient accumulation: number of parts in which each batch goes through the network, for less memory.

    ``batch_size`` stays the number of images of an optimization step, so the learning rate need not change;
    batch norm takes the statistics of each part.
    """
    optimizer: Annotated[SGD | AdamW, Field(discriminator="kind")]
    """Which keys it has depends on ``kind``."""
    schedule: Annotated[
        ConstantSchedule | StepSchedule | CosineSchedule | OneCycleSchedule, Field(discriminator="kind")
    ]
    """How the learning rate changes during the phase; which keys it has depends on ``kind``."""
    lr: LearningRate | None = None
    """Peak learning rate of the head; null means the top-level ``lr``."""
    layer_lr_multipliers: Annotated[
        tuple[PositiveFloat, PositiveFloat, PositiveFloat], Field(strict=False)
    ] = (1.0, 1.0, 1.0)
    """Multipliers of the learning rate for the stem and early layers, the late layers, and the head."""
    layer_decay: Annotated[float, Field(ge=0.01, le=1)] | None = None
    """Learning rate of each block divided by that of the next one towards the head.

    Used instead of ``layer_lr_multipliers``.
    """
    lr_range_test: bool = False
    """Run and plot an LR range test before the phase; ``lr: auto`` always does."""
    clip_norm: PositiveFloat | None = None
    """Scale gradients down to this total norm if theirs is larger."""
    class_weights: ClassWeights | None = None
    """null means the top-level ``class_weights``."""
    patience_epochs: Epochs | None = None
    """Early stopping: end the phase after this many epochs without a better validation result."""

    @model_validator(mode="after")
    def _reject_contradictions(self) -> "Phase":
        if isinstance(self.schedule, CosineSchedule) and self.schedule.warmup_epochs >= self.epochs:
            raise PydanticCustomError("warmup", "schedule.warmup_epochs must be less than epochs")
        if self.layer_decay is not None and self.layer_lr_multipliers != (1.0, 1.0, 1.0):
            raise PydanticCustomError("two_multipliers", "give layer_lr_multipliers or layer_decay, not both")
        return self

    def image_size_at(self, epoch: int) -> int:
        """Height and width of the training images in pixels, in an epoch counted from 0 within the phase."""
        if isinstance(self.image_size, int):
            return self.image_size
        first, last = self.image_size
        if epoch >= self.epochs - 1:
            return last
        if epoch == 0:
            return first
        grown = first + (last - first) * epoch / (self.epochs - 1)
        return min(max(32 * round(grown / 32), first), last)

    @property
    def freezes_norm_statistics(self) -> bool:
        """Whether norm layers outside the head keep their running mean and variance."""
        if self.norm_statistics is None:
            return self.trainable == "head"
        return self.norm_statistics == "frozen"


Strength = Annotated[
    Annotated[PositiveFloat, Tag("@number or auto")] | Annotated[Literal["auto"], Tag("@auto")],
    Discriminator(lambda value: "@auto" if value == "auto" else "@number or auto"),
]


class SolvedPhase(Section):
    """A phase without epochs: the network is frozen, and its linear head is the exact solution of a ridge
    regression on the features of every training image, each computed once.
    """

    elsewhere: ClassVar = dict.fromkeys(Phase.model_fields, "a phase with solve takes no training steps")
    solve: Literal["ridge"]
    image_size: ImageSize
    """Height and width of the images in pixels."""
    flip: bool = False
    """Features are the mean over an image and its horizontal flip, as ``evaluate.flip`` does to logits."""
    strength: Strength = "auto"
    """Penalty on the squared weights, as ``alpha`` of scikit-learn's ``Ridge``.

    auto means the one with the lowest leave-one-out loss.
    """
    class_weights: ClassWeights | None = None
    """null means the top-level ``class_weights``."""

    @property
    def head(self) -> None:
        """The top-level head."""
        return None

    @property
    def epochs(self) -> int:
        """One pass over the images."""
        return 1


AnyPhase = Annotated[
    Annotated[SolvedPhase, Tag("@solved")] | Annotated[Phase, Tag("@trained")],
    Discriminator(lambda value: "@solved" if _is_solved(value) else "@trained"),
]


def _is_solved(value: Any) -> bool:
    return isinstance(value, SolvedPhase) or (isinstance(value, dict) and "solve" in value)
