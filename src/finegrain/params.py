"""Typed view of params.yaml: the only module that reads it."""

import difflib
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from finegrain import paths
from finegrain.errors import UserError

ModelName = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
    "wide_resnet50_2", "wide_resnet101_2",
    "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7",
    "efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l",
]  # fmt: skip
"""Written out so that the file is checked without importing torchvision; a test compares the two lists."""

Ratio = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=32, le=1024)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Slug = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+/[1-9]\d*$")]
"""``owner/dataset/version``: the version is pinned, or a new upload would change the results unseen."""


class Section(BaseModel):
    """A mapping of params.yaml: closed, frozen, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key, value in data.items():
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                    hint = f"did you mean '{near[0]}'? " if near else ""
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key '{key}' (value {value}): {hint}allowed: {allowed}",
                        {
                            "key": key,
                            "value": repr(value),
                            "hint": hint,
                            "allowed": ", ".join(cls.model_fields),
                        },
                    )
        return data


class Named(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Folder of this dataset's files under data/, models/, metrics/ and plots/."""


class Sample(Named):
    """Vehicles drawn on the spot: needs no download."""

    source: Literal["sample"]
    images_per_class: Annotated[int, Field(ge=3, le=100_000)]
    side_pixels: Side


class Kaggle(Named):
    source: Literal["kaggle"]
    slug: Slug
    sha256: Sha256 | None = None
    """Of the downloaded archive; checked where given, recorded always."""


class Archive(Named):
    """A local .zip, .tar, .tar.gz or folder of class folders; several part files count as one."""

    source: Literal["archive"]
    path: str | Annotated[list[str], Field(min_length=1)]
    sha256: Sha256 | None = None
    """Of the archive (of the part files' sha256 lines if there are several); checked where given."""


class Cifar100(Named):
    """The python version of CIFAR-100, from Kaggle or from a local .tar.gz, .zip or folder."""

    source: Literal["cifar100"]
    slug: Slug | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "Cifar100":
        if (self.slug is None) == (self.path is None):
            raise PydanticCustomError(
                "one_place", "give either slug (Kaggle) or path (local), not both or none"
            )
        return self


class Split(Section):
    val_ratio: Annotated[float, Field(gt=0, lt=1)]
    """Share of each class for validation; of the train folder where the archive has its own test folder."""
    test_ratio: Annotated[float, Field(gt=0, lt=1)]
    """Share of each class for test; not used where the archive has its own test folder."""
    max_bad_ratio: Ratio = 0.01
    """The stage fails where a larger share of the images cannot be read."""
    near_duplicate_bits: Annotated[int, Field(ge=0, le=16)] = 4
    """Two images are near-duplicates when their 64-bit perceptual hashes differ in at most so many bits."""

    @model_validator(mode="after")
    def _leaves_train(self) -> "Split":
        if self.val_ratio + self.test_ratio >= 1:
            raise PydanticCustomError("no_train", "val_ratio + test_ratio must be less than 1")
        return self


class Pack(Section):
    side_pixels: Side
    """Every image is stored as a square of this side; a training size above it gains nothing."""


class Sgd(Section):
    kind: Literal["sgd"]
    momentum: Ratio = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0


class AdamW(Section):
    kind: Literal["adamw"]
    betas: Annotated[tuple[Ratio, Ratio], Field(strict=False)] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.01


class Constant(Section):
    kind: Literal["constant"]


class Step(Section):
    """Multiply the rate by ``factor`` every ``every_epochs`` epochs."""

    kind: Literal["step"]
    every_epochs: PositiveInt
    factor: Annotated[float, Field(gt=0, lt=1)]


class Cosine(Section):
    """Linear warm-up from zero, then half a cosine down to zero."""

    kind: Literal["cosine"]
    warmup_epochs: NonNegativeFloat = 0.0


class OneCycle(Section):
    """Cosine up from lr/25 during ``up_ratio`` of the steps, then down to lr/250,000; momentum mirrors it."""

    kind: Literal["one_cycle"]
    up_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3
    momentum_range: Annotated[tuple[Ratio, Ratio], Field(strict=False)] = (0.85, 0.95)


class Phase(Section):
    """One stretch of training with its own trainable part, image size, optimizer and schedule."""

    part: Literal["head", "head+norm", "all"]
    epochs: PositiveInt
    side_pixels: Side
    optimizer: Annotated[Sgd | AdamW, Field(discriminator="kind")]
    schedule: Annotated[Constant | Step | Cosine | OneCycle, Field(discriminator="kind")]
    lr: PositiveFloat | None = None
    """Peak rate of the head; none: the top-level ``lr``."""
    lr_factors: Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], Field(strict=False)] = (
        1.0,
        1.0,
        1.0,
    )
    """The rate is multiplied by these for the stem and early layers, the late layers, and the head."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> "Phase":
        if isinstance(self.schedule, Cosine) and self.schedule.warmup_epochs >= self.epochs:
            raise PydanticCustomError("warmup", "schedule.warmup_epochs must be less than epochs")
        return self


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise PydanticCustomError("order", "the first number must not be above the second")
    return pair


class Augment(Section):
    """Random resized crop and horizontal flip, drawn anew for every image and epoch."""

    crop_scale: Annotated[
        tuple[PositiveFloat, Annotated[float, Field(le=1)]], Field(strict=False), AfterValidator(_ordered)
    ]
    """Smallest and largest area of the crop, as a share of the image."""
    crop_ratio: Annotated[
        tuple[PositiveFloat, PositiveFloat], Field(strict=False), AfterValidator(_ordered)
    ] = (0.75, 4 / 3)
    """Smallest and largest width : height of the crop."""
    flip: bool = True


class Params(Section):
    dataset: Annotated[Sample | Kaggle | Archive | Cifar100, Field(discriminator="source")]
    split: Split
    pack: Pack
    models: Annotated[list[ModelName], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    weights: Annotated[str, Field(min_length=1)]
    """``none``, a torchvision name such as IMAGENET1K_V1, or a local .safetensors or .pth file."""
    lr: PositiveFloat
    batch_size: PositiveInt
    label_smoothing: Ratio = 0.0
    augment: Augment
    phases: Annotated[dict[str, Phase], Field(min_length=1)]
    """Run in the order of the file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 autocast where the hardware multiplies it natively."""
    checkpoint_seconds: NonNegativeFloat = 60.0
    """A checkpoint is written at the end of an epoch once so much time has passed since the last one."""

    @model_validator(mode="after")
    def _models_once(self) -> "Params":
        twice = sorted({name for name in self.models if self.models.count(name) > 1})
        if twice:
            raise PydanticCustomError("twice", "models: {twice} is listed twice", {"twice": twice[0]})
        return self


def read(file: Path = paths.PARAMS) -> Params:
    """Read and check the whole file before any work starts.

    Raises:
        UserError: the file is missing or not YAML, or a key is unknown, missing, mistyped or out of range;
            one line each, with the key, the value, what is allowed and the nearest known key.
    """
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(
            f"{file}: not found; run from the project's folder, or copy a file of recipes/ here"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{file}: must be a mapping of keys to values, but is {type(data).__name__}")
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise UserError("\n".join(f"{file}: {_explain(e)}" for e in error.errors())) from None


_TAGS = frozenset("sample kaggle archive cifar100 sgd adamw constant step cosine one_cycle".split())


def _explain(error: Any) -> str:
    """One line: key, value, what is allowed."""
    loc = list(error["loc"])
    # pydantic puts the tag of a union into the location; a user never wrote it there
    where = ".".join(
        str(p)
        for i, p in enumerate(loc)
        if not (i and p in _TAGS and loc[i - 1] in ("dataset", "optimizer", "schedule"))
    )
    value = error["input"]
    kind = error["type"]
    if kind == "missing":
        return f"{where}: is missing"
    if kind == "unknown_key":
        return f"{where}: {error['msg']}" if where else str(error["msg"])
    shown = "" if isinstance(value, dict) else f"{value!r}: "
    message = str(error["msg"])
    message = message[0].lower() + message[1:]
    if isinstance(value, str) and kind in ("float_type", "int_type") and _number(value):
        message += f"; YAML 1.1 reads {value} as text: write {float(value)!r}"
    if kind == "literal_error" and isinstance(value, str):
        near = difflib.get_close_matches(value, re.findall(r"'([^']*)'", message), n=1)
        message += f"; did you mean '{near[0]}'?" if near else ""
    return f"{where}: {shown}{message}" if where else f"{shown}{message}"


def _number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
