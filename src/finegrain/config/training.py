"""The part of params.yaml that says how a network is trained: head, phases, augmentation."""

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
    ordered,
)


class HeadParams(Section):
    """What stands in the place of the network's last layer: linear, or linear layers of the given widths."""

    widths: list[PositiveInt] = []
    """Outputs of the hidden linear layers; none: a single linear layer to the classes."""
    dropouts: list[Ratio] = []
    """Before each linear layer, the last one too; none: no dropout but the network's own."""
    activation: Literal["relu", "none"] = "relu"
    """After each hidden layer."""
    batch_norm: bool = False
    """Before each dropout."""
    pool: Literal["avg", "avg+max"] = "avg"
    """avg+max: the means and the maxima of the feature maps side by side, twice the features."""

    @model_validator(mode="after")
    def _a_dropout_each(self) -> "HeadParams":
        if self.dropouts and len(self.dropouts) != len(self.widths) + 1:
            raise PydanticCustomError(
                "dropouts",
                "dropouts must be empty or one for each of the {n} linear layers (widths and the last one)",
                {"n": len(self.widths) + 1},
            )
        return self

    @property
    def is_linear(self) -> bool:
        """A single linear layer, as torchvision's own."""
        return not (self.widths or self.dropouts or self.batch_norm)


class OptimizerParams(Section):
    weight_decay: NonNegativeFloat
    decay_norm_and_bias: bool = True
    """False: weight decay spares biases and the norm layers' weights, as is usual in newer recipes."""


class SGD(OptimizerParams):
    kind: Literal["sgd"]
    momentum: Ratio = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "SGD":
        if self.nesterov and self.momentum == 0:
            raise PydanticCustomError("nesterov", "nesterov needs a momentum above 0")
        return self


class AdamW(OptimizerParams):
    kind: Literal["adamw"]
    betas: Annotated[tuple[Ratio, Ratio], Field(strict=False)] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.01


class ConstantSchedule(Section):
    kind: Literal["constant"]


class StepSchedule(Section):
    """Multiply the rate by ``factor`` every ``every_epochs`` epochs."""

    kind: Literal["step"]
    every_epochs: PositiveInt
    factor: Annotated[float, Field(gt=0, lt=1)]


class CosineSchedule(Section):
    """Linear warm-up from zero, then half a cosine down to zero."""

    kind: Literal["cosine"]
    warmup_epochs: NonNegativeFloat = 0.0


class OneCycleSchedule(Section):
    """Cosine up to the peak rate, then down to almost zero; momentum runs the other way.

    Keys and defaults are those of ``torch.optim.lr_scheduler.OneCycleLR``.
    """

    kind: Literal["one_cycle"]
    pct_start: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the steps until the peak."""
    div_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 25.0
    """Peak rate divided by the first one."""
    final_div_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1e4
    """First rate divided by the last one."""
    momentum_range: Annotated[tuple[Ratio, Ratio], Field(strict=False), AfterValidator(ordered)] = (
        0.85,
        0.95,
    )


# a tag that starts with @ is not shown: the user never wrote it (params.read)
LearningRate = Annotated[
    Annotated[PositiveFloat, Tag("@number or auto")] | Annotated[Literal["auto"], Tag("@auto")],
    Discriminator(lambda value: "@auto" if value == "auto" else "@number or auto"),
]
"""A number, or ``auto``: taken from the LR range test at the start of each phase."""

_ImageSizes = Annotated[
    Annotated[ImageSize, Tag("@one")]
    | Annotated[tuple[ImageSize, ImageSize], Field(strict=False), AfterValidator(ordered), Tag("@two")],
    Discriminator(lambda value: "@two" if isinstance(value, (list, tuple)) else "@one"),
]


class Phase(Section):
    """One stretch of training with its own trainable part, image size, optimizer and schedule."""

    trainable: Literal["head", "head+norm", "all"]
    """What trains; the rest has no gradient, no optimizer state and no weight decay."""
    norm_statistics: Literal["update", "frozen"] | None = None
    """Running mean and variance of norm layers outside the head; none: frozen where only the head trains."""
    epochs: PositiveInt
    image_size: _ImageSizes
    """One size, or [first, last]: grows from epoch to epoch, in between rounded to multiples of 32."""
    batch_size: BatchSize | None = None
    """None: the top-level ``batch_size``."""
    optimizer: Annotated[SGD | AdamW, Field(discriminator="kind")]
    schedule: Annotated[
        ConstantSchedule | StepSchedule | CosineSchedule | OneCycleSchedule, Field(discriminator="kind")
    ]
    lr: LearningRate | None = None
    """Peak rate of the head; none: the top-level ``lr``."""
    layer_lr_multipliers: Annotated[
        tuple[PositiveFloat, PositiveFloat, PositiveFloat], Field(strict=False)
    ] = (
        1.0,
        1.0,
        1.0,
    )
    """The rate is multiplied by these for the stem and early layers, the late layers, and the head."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Instead of ``layer_lr_multipliers``: each block's rate is so many times that of the next one towards the head."""
    lr_range_test: bool = False
    """Run and plot the LR range test before the phase; ``lr: auto`` always does."""
    clip_norm: PositiveFloat | None = None
    """Gradients are scaled down to this total norm where theirs is larger."""
    patience_epochs: PositiveInt | None = None
    """End the phase after so many epochs without a better one by validation."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Phase":
        if isinstance(self.schedule, CosineSchedule) and self.schedule.warmup_epochs >= self.epochs:
            raise PydanticCustomError("warmup", "schedule.warmup_epochs must be less than epochs")
        if self.layer_decay is not None and self.layer_lr_multipliers != (1.0, 1.0, 1.0):
            raise PydanticCustomError("two_factors", "give layer_lr_multipliers or layer_decay, not both")
        return self

    def image_size_at(self, epoch: int) -> int:
        """Height and width of the training images in pixels; ``epoch`` counts from 0 within the phase."""
        if isinstance(self.image_size, int):
            return self.image_size
        first, last = self.image_size
        if epoch >= self.epochs - 1:
            return last
        grown = first + (last - first) * epoch / (self.epochs - 1)
        return min(max(32 * round(grown / 32), first), last)

    @property
    def freezes_norm_statistics(self) -> bool:
        return (self.norm_statistics or ("frozen" if self.trainable == "head" else "update")) == "frozen"


class AugmentParams(Section):
    """Drawn anew for every image and epoch, and applied in this order."""

    crop_scale: Annotated[
        tuple[PositiveFloat, Annotated[float, Field(le=1)]], Field(strict=False), AfterValidator(ordered)
    ]
    """Smallest and largest area of the crop, as a share of the image."""
    crop_ratio: Annotated[
        tuple[PositiveFloat, PositiveFloat], Field(strict=False), AfterValidator(ordered)
    ] = (0.75, 4 / 3)
    """Smallest and largest width : height of the crop."""
    flip: bool = True
    pad_crop_pixels: Annotated[int, Field(ge=0, le=64)] = 0
    """CIFAR's: pad the image by so many pixels of zeros, then cut its own size out of it anywhere."""
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest rotation either way."""
    zoom: Annotated[float, Field(ge=1, le=8)] = 1.0
    """Largest magnification, at a random place."""
    perspective: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest perspective warp: a corner moves by so much of half the side."""
    warp_probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Of each of rotation, zoom and tilt, on its own."""
    brightness: Ratio = 0.0
    """The factor is drawn from 1 - brightness to 1 + brightness; the next two alike."""
    contrast: Ratio = 0.0
    saturation: Ratio = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift of the hue, in turns of the colour circle."""
    color_probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Of each of the four, on its own."""
    erase_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Random erasing: a box of 2 to 33 % of the image becomes the mean colour."""
    mixup_alpha: NonNegativeFloat = 0.0
    """Of the beta distribution of the shares in which two images are blended; 0: none."""
    cutmix_alpha: NonNegativeFloat = 0.0
    """The same for pasting a box of one image into another; with both, a batch gets one of them."""


class LRRangeTest(Section):
    """The LR range test (https://arxiv.org/abs/1506.01186) before the phases that ask for it."""

    start: PositiveFloat
    end: PositiveFloat
    steps: Annotated[int, Field(ge=10, le=10_000)]
    suggestion: Literal["valley", "steepest"]
    """Which one ``lr: auto`` takes: half way down the longest fall of the loss, or its steepest point."""

    @model_validator(mode="after")
    def _rises(self) -> "LRRangeTest":
        if self.start >= self.end:
            raise PydanticCustomError("rises", "start must be below end")
        return self


class EvaluateParams(Section):
    """How the trained network is asked; changing it trains nothing again."""

    flip: bool
    """Average the logits of the image and of its mirror image."""
    image_size: ImageSize | None
    """None: the size of the epoch that was kept."""


class ChannelStatistics(Section):
    """Mean and deviation of red, green and blue, of values in 0..1."""

    mean: Annotated[tuple[Ratio, Ratio, Ratio], Field(strict=False)]
    std: Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], Field(strict=False)]


def _normalization_tag(value: Any) -> str:
    return "@numbers" if isinstance(value, (dict, ChannelStatistics)) else "@name"


Normalization = Annotated[
    Annotated[Literal["auto", "imagenet", "train"], Tag("@name")]
    | Annotated[ChannelStatistics, Tag("@numbers")],
    Discriminator(_normalization_tag),
]
"""auto: ImageNet's statistics for pretrained weights, the train split's own for random ones."""
