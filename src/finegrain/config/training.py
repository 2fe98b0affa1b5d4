"""The settings of params.yaml for a network's head, its augmentation, and its evaluation."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from finegrain.config.base import (
    ImageSize,
    Rate,
    Ratio,
    Section,
    require_order,
)

StageName = Literal["layer1", "layer2", "layer3", "layer4"]


class HeadParams(Section):
    """The head that replaces the network's last layer: one linear layer, or several with hidden ones."""

    widths: Annotated[list[Annotated[int, Field(ge=1, le=8192)]], Field(max_length=8)] = []
    """Number of outputs of each hidden linear layer; empty means a single linear layer."""
    dropouts: list[Ratio] = []
    """Dropout before each linear layer, including the last; empty means only the network's own dropout."""
    activation: Literal["relu", "none"] = "relu"
    """Activation after each hidden layer."""
    batch_norm: bool = False
    """Put batch norm before each dropout."""
    pool: Literal["avg", "avg+max", "covariance"] = "avg"
    """avg+max concatenates average and max pooling of the feature maps, which doubles the features.

    covariance takes the square root of the channels' covariance matrix: n channels give n (n + 1) / 2
    features.
    """
    stage: Annotated[
        Annotated[StageName, Tag("@one")] | Annotated[list[StageName], Field(min_length=1), Tag("@several")],
        Discriminator(lambda value: "@several" if isinstance(value, list) else "@one"),
    ] = "layer4"
    """For covariance: the stage of the network, or stages, whose feature maps are pooled.

    What lies above the last of them is neither computed nor stored. Of an EfficientNet, layer2, layer3 and
    layer4 are the last blocks with an eighth, a sixteenth and a thirty-second of the image size.
    """
    channels: Annotated[int, Field(ge=1, le=4096)] | None = None
    """For covariance: channels of each stage after a 1x1 convolution, whose covariance with all channels is
    taken; k of n channels give k n features.

    null means all, or as many as give 32,896 features a stage: 32 of ResNet-50's 1024 in layer3.
    """

    @model_validator(mode="after")
    def _require_dropout_for_each_layer(self) -> "HeadParams":
        if self.dropouts and len(self.dropouts) != len(self.widths) + 1:
            raise PydanticCustomError(
                "dropouts",
                "dropouts must be empty, or have one for each of the {n} linear layers (widths, last)",
                {"n": len(self.widths) + 1},
            )
        return self

    @model_validator(mode="after")
    def _require_covariance_for_its_keys(self) -> "HeadParams":
        if self.pool != "covariance" and (self.stage != "layer4" or self.channels is not None):
            raise PydanticCustomError("covariance", "stage and channels need pool: covariance")
        if len(set(self.stages)) < len(self.stages):
            raise PydanticCustomError("stages", "stage: a stage is listed twice")
        return self

    @property
    def stages(self) -> list[StageName]:
        """The stages that are pooled, from the first to the last of the network."""
        return sorted([self.stage] if isinstance(self.stage, str) else self.stage)

    @property
    def layers(self) -> tuple[object, ...]:
        """All that decides what the head computes when it does not train; rates of dropout do not."""
        pooling = (self.pool, self.stages, self.channels)
        return (self.widths, bool(self.dropouts), self.activation, self.batch_norm, *pooling)

    @property
    def min_image_size(self) -> int:
        """Smallest height and width in pixels; a feature map of a single place has no covariance."""
        return 2 ** (int(self.stages[-1].removeprefix("layer")) + 1) + 1 if self.pool == "covariance" else 1

    @property
    def is_linear(self) -> bool:
        """Whether the head is a single linear layer, like torchvision's."""
        return not (self.widths or self.dropouts or self.batch_norm)


_CropScale = Annotated[float, Field(ge=0.01, le=1)]
_CropRatio = Annotated[float, Field(ge=0.1, le=10)]


def _require_alpha(alpha: float) -> float:
    """Reject a number that is almost 0: torch then draws NaN from the beta distribution."""
    if 0 < alpha < 0.01:
        raise PydanticCustomError("alpha", "must be 0 (off) or at least 0.01")
    return alpha


_Alpha = Annotated[float, Field(ge=0, le=100), AfterValidator(_require_alpha)]


class AugmentParams(Section):
    """Random augmentation, sampled for every image in every epoch and applied in this order."""

    crop_scale: Annotated[
        tuple[_CropScale, _CropScale],
        Field(strict=False),
        AfterValidator(require_order),
    ]
    """Smallest and largest area of the crop, as a share of the image."""
    crop_ratio: Annotated[
        tuple[_CropRatio, _CropRatio], Field(strict=False), AfterValidator(require_order)
    ] = (0.75, 4 / 3)
    """Smallest and largest ratio of the crop's width to its height."""
    flip: bool = True
    """Flip half of the images horizontally."""
    policy: Literal["none", "trivial_augment_wide", "randaugment"] = "none"
    """Random operators of torchvision, from 14: shears, translations, rotation, colors, posterize and so on.

    trivial_augment_wide applies one, of random magnitude (https://arxiv.org/abs/2103.10158); randaugment
    applies several, of one magnitude (https://arxiv.org/abs/1909.13719).
    """
    randaugment_ops: Annotated[int, Field(ge=1, le=14)] = 2
    """For randaugment: number of operators that are applied to each image, one after another."""
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """For randaugment: magnitude of the operators, 0 to 30."""
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
    """The brightness is multiplied by a factor between 1 - brightness and 1 + brightness."""
    contrast: Ratio = 0.0
    """As brightness, for the contrast."""
    saturation: Ratio = 0.0
    """As brightness, for the saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift of the hue, as a fraction of the color wheel."""
    color_probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Probability of brightness, contrast, saturation and hue, each independently of the others."""
    erase_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of random erasing, which fills 2 to 33 % of the image with the mean color."""
    mixup_alpha: _Alpha = 0.0
    """Both parameters of the beta distribution that blends two images; 0 means no mixup."""
    cutmix_alpha: _Alpha = 0.0
    """Likewise for pasting a box of one image into another; with both, each batch gets one of them."""


class LRRangeTest(Section):
    """The LR range test (https://arxiv.org/abs/1506.01186) before the phases that set it."""

    start: Rate
    """Learning rate of the first step."""
    end: Rate
    """Learning rate of the last step; the test ends earlier if the loss has grown much."""
    steps: Annotated[int, Field(ge=10, le=10_000)]
    """Number of training steps, whose effect is undone afterwards."""
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
    """Height and width in pixels; null means the image size of the epoch whose weights are kept."""


_Mean = Annotated[float, Field(ge=0, le=1)]
_Std = Annotated[float, Field(ge=0.001, le=1)]


class ChannelStatistics(Section):
    """Mean and standard deviation of red, green and blue, for values in 0..1."""

    mean: Annotated[tuple[_Mean, _Mean, _Mean], Field(strict=False)]
    """Means of red, green and blue."""
    std: Annotated[tuple[_Std, _Std, _Std], Field(strict=False)]
    """Standard deviations of red, green and blue."""


def _normalization_tag(value: Any) -> str:
    return "@numbers" if isinstance(value, (dict, ChannelStatistics)) else "@name"


Normalization = Annotated[
    Annotated[Literal["auto", "imagenet", "train"], Tag("@name")]
    | Annotated[ChannelStatistics, Tag("@numbers")],
    Discriminator(_normalization_tag),
]
"""auto means ImageNet's statistics for pretrained weights, and the train split's for random weights."""
