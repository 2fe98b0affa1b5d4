"""The settings of params.yaml for training and evaluating a network."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, PositiveInt, Tag, model_validator
from pydantic_core import PydanticCustomError

from finegrain.config.base import (
    BatchSize,
    ImageSize,
    NonNegativeFloat,
    PositiveFloat,
    Ratio,
    Section,
    require_order,
)


class HeadParams(Section):
    """The head that replaces the network's last layer: one linear layer, or several with hidden ones."""

    widths: list[PositiveInt] = []
    """Number of outputs of each hidden linear layer; empty means a single linear layer."""
    dropouts: list[Ratio] = []
    """Dropout before each linear layer, including the last; empty means only the network's own dropout."""
    activation: Literal["relu", "none"] = "relu"
    """Activation after each hidden layer."""
    batch_norm: bool = False
    """Batch norm before each dropout."""
    pool: Literal["avg", "avg+max"] = "avg"
    """avg+max concatenates average and max pooling of the feature maps, which doubles the features."""

    @model_validator(mode="after")
    def _require_dropout_for_each_layer(self) -> "HeadParams":
        if self.dropouts and len(self.dropouts) != len(self.widths) + 1:
            raise PydanticCustomError(
                "dropouts",
                "dropouts must be empty or one for each of the {n} linear layers (widths and the last one)",
                {"n": len(self.widths) + 1},
            )
        return self

    @property
    def is_linear(self) -> bool:
        """Whether the head is a single linear layer, like torchvision's."""
        return not (self.widths or self.dropouts or self.batch_norm)


class OptimizerParams(Section):
    """What all optimizers have in common."""

    weight_decay: NonNegativeFloat
    decay_norm_and_bias: bool = True
    """False exempts biases and the weights of norm layers from weight decay, as newer recipes do."""


class SGD(OptimizerParams):
    """``torch.optim.SGD``."""

    kind: Literal["sgd"]
    momentum: Ratio = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _require_momentum_for_nesterov(self) -> "SGD":
        if self.nesterov and self.momentum == 0:
            raise PydanticCustomError("nesterov", "nesterov needs a momentum above 0")
        return self


class AdamW(OptimizerParams):
    """``torch.optim.AdamW``."""

    kind: Literal["adamw"]
    betas: Annotated[tuple[Ratio, Ratio], Field(strict=False)] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.01


class ConstantSchedule(Section):
    """The same learning rate in every step."""

    kind: Literal["constant"]


class StepSchedule(Section):
    """Multiply the learning rate by ``factor`` every ``every_epochs`` epochs."""

    kind: Literal["step"]
    every_epochs: PositiveInt
    factor: Annotated[float, Field(gt=0, lt=1)]


class CosineSchedule(Section):
    """Linear warm-up from zero, then half a cosine down to zero."""

    kind: Literal["cosine"]
    warmup_epochs: NonNegativeFloat = 0.0


class OneCycleSchedule(Section):
    """Cosine up to the peak learning rate, then down to almost zero; momentum moves the other way.

    Keys and defaults are those of ``torch.optim.lr_scheduler.OneCycleLR``.
    """

    kind: Literal["one_cycle"]
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the steps before the peak."""
    div_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 25.0
    """Peak learning rate divided by the initial one."""
    final_div_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1e4
    """Initial learning rate divided by the final one."""
    momentum_range: Annotated[tuple[Ratio, Ratio], Field(strict=False), AfterValidator(require_order)] = (
        0.85,
        0.95,
    )


# a tag that starts with @ is left out of messages (messages.describe_error): the user did not write it
LearningRate = Annotated[
    Annotated[PositiveFloat, Tag("@number or auto")] | Annotated[Literal["auto"], Tag("@auto")],
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

    trainable: Literal["head", "head+norm", "all"]
    """Parameters that train; the others have no gradient, no optimizer state and no weight decay."""
    norm_statistics: Literal["update", "frozen"] | None = None
    """Running mean and variance of the norm layers outside the head.

    null means frozen if only the head trains, else update.
    """
    epochs: PositiveInt
    image_size: _ImageSizes
    """One size, or [first, last] to grow from epoch to epoch, in between by multiples of 32 pixels."""
    batch_size: BatchSize | None = None
    """null means the top-level ``batch_size``."""
    optimizer: Annotated[SGD | AdamW, Field(discriminator="kind")]
    schedule: Annotated[
        ConstantSchedule | StepSchedule | CosineSchedule | OneCycleSchedule, Field(discriminator="kind")
    ]
    lr: LearningRate | None = None
    """Peak learning rate of the head; null means the top-level ``lr``."""
    layer_lr_multipliers: Annotated[
        tuple[PositiveFloat, PositiveFloat, PositiveFloat], Field(strict=False)
    ] = (1.0, 1.0, 1.0)
    """Multipliers of the learning rate for the stem and early layers, the late layers, and the head."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Learning rate of each block divided by that of the next one towards the head.

    Used instead of ``layer_lr_multipliers``.
    """
    lr_range_test: bool = False
    """Run and plot an LR range test before the phase; ``lr: auto`` always does."""
    clip_norm: PositiveFloat | None = None
    """Scale gradients down to this total norm if theirs is larger."""
    patience_epochs: PositiveInt | None = None
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
        grown = first + (last - first) * epoch / (self.epochs - 1)
        return min(max(32 * round(grown / 32), first), last)

    @property
    def freezes_norm_statistics(self) -> bool:
        """Whether norm layers outside the head keep their running mean and variance."""
        if self.norm_statistics is None:
            return self.trainable == "head"
        return self.norm_statistics == "frozen"


class AugmentParams(Section):
    """Random augmentation, sampled for every image in every epoch and applied in this order."""

    crop_scale: Annotated[
        tuple[PositiveFloat, Annotated[float, Field(le=1)]],
        Field(strict=False),
        AfterValidator(require_order),
    ]
    """Smallest and largest area of the crop, as a share of the image."""
    crop_ratio: Annotated[
        tuple[PositiveFloat, PositiveFloat], Field(strict=False), AfterValidator(require_order)
    ] = (0.75, 4 / 3)
    """Smallest and largest ratio of the crop's width to its height."""
    flip: bool = True
    """Flip half of the images horizontally."""
    pad_crop_pixels: Annotated[int, Field(ge=0, le=64)] = 0
    """Pad the image with this many pixels of zeros, then crop it to its own size at a random place.

    This is the usual augmentation of CIFAR.
    """
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation in either direction."""
    zoom: Annotated[float, Field(ge=1, le=8)] = 1.0
    """Largest magnification, around a random point."""
    perspective: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest perspective warp: the shift of a corner as a share of half the image size."""
    warp_probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Probability of rotation, zoom and perspective, each independently of the others."""
    brightness: Ratio = 0.0
    """The factor is sampled from 1 - brightness to 1 + brightness."""
    contrast: Ratio = 0.0
    """Like brightness."""
    saturation: Ratio = 0.0
    """Like brightness."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift of the hue, as a fraction of the color wheel."""
    color_probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Probability of brightness, contrast, saturation and hue, each independently of the others."""
    erase_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of random erasing, which fills 2 to 33 % of the image with the mean color."""
    mixup_alpha: NonNegativeFloat = 0.0
    """Both parameters of the beta distribution that blends two images; 0 means no mixup."""
    cutmix_alpha: NonNegativeFloat = 0.0
    """Likewise for pasting a box of one image into another; with both, each batch gets one of them."""


class LRRangeTest(Section):
    """The LR range test (https://arxiv.org/abs/1506.01186) before the phases that set it."""

    start: PositiveFloat
    end: PositiveFloat
    steps: Annotated[int, Field(ge=10, le=10_000)]
    suggestion: Literal["valley", "steepest"]
    """Learning rate of ``lr: auto``: halfway down the longest decrease of the loss, or its steepest point."""

    @model_validator(mode="after")
    def _require_start_below_end(self) -> "LRRangeTest":
        if self.start >= self.end:
            raise PydanticCustomError("range", "start must be below end")
        return self


class EvaluateParams(Section):
    """How predictions are computed; a change needs no new training."""

    flip: bool
    """Average the logits of the image and of its horizontal flip."""
    image_size: ImageSize | None
    """null means the image size of the epoch whose weights are kept."""


class ChannelStatistics(Section):
    """Mean and standard deviation of red, green and blue, for values in 0..1."""

    mean: Annotated[tuple[Ratio, Ratio, Ratio], Field(strict=False)]
    std: Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], Field(strict=False)]


def _normalization_tag(value: Any) -> str:
    return "@numbers" if isinstance(value, (dict, ChannelStatistics)) else "@name"


Normalization = Annotated[
    Annotated[Literal["auto", "imagenet", "train"], Tag("@name")]
    | Annotated[ChannelStatistics, Tag("@numbers")],
    Discriminator(_normalization_tag),
]
"""auto means ImageNet's statistics for pretrained weights, and the train split's for random weights."""
