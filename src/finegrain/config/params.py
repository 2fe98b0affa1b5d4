"""Typed view of params.yaml: the only module that reads it."""

import difflib
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from finegrain.config.base import BatchSize, ImageSize, NonNegativeFloat, Ratio, Section
from finegrain.config.training import (
    AugmentParams,
    EvaluateParams,
    HeadParams,
    LearningRate,
    LRRangeTest,
    Normalization,
    Phase,
)
from finegrain.core import paths
from finegrain.core.errors import UserError

ModelName = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
    "wide_resnet50_2", "wide_resnet101_2",
    "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7",
    "efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l",
]  # fmt: skip
"""Written out so that the file is checked without importing torchvision; a test compares the two lists."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Slug = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+/[1-9]\d*$")]
"""``owner/dataset/version``: the version is pinned, or a new upload would change the results unseen."""
PhaseName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=64)]
"""Names the phase's files too."""


Seed = Annotated[int, Field(ge=0, lt=2**31)]


class DatasetParams(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Folder of this dataset's files under data/, models/, metrics/ and plots/."""


class SampleDataset(DatasetParams):
    """Vehicles drawn on the spot: needs no download."""

    source: Literal["sample"]
    images_per_class: Annotated[int, Field(ge=3, le=100_000)]
    image_size: ImageSize


class KaggleDataset(DatasetParams):
    source: Literal["kaggle"]
    slug: Slug
    sha256: Sha256 | None = None
    """Of the downloaded archive; checked where given, recorded always."""


class ArchiveDataset(DatasetParams):
    """A local .zip, .tar, .tar.gz or folder of class folders; several part files count as one."""

    source: Literal["archive"]
    path: str | Annotated[list[str], Field(min_length=1)]
    sha256: Sha256 | None = None
    """Of the archive (of the part files' sha256 lines if there are several); checked where given."""


class Cifar100Dataset(DatasetParams):
    """The python version of CIFAR-100, from Kaggle or from a local .tar.gz, .zip or folder."""

    source: Literal["cifar100"]
    slug: Slug | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "Cifar100Dataset":
        if (self.slug is None) == (self.path is None):
            raise PydanticCustomError(
                "one_place", "give either slug (Kaggle) or path (local), not both or none"
            )
        return self


class SplitParams(Section):
    val_ratio: Annotated[float, Field(gt=0, lt=1)]
    """Share of each class for validation; of the train folder where the archive has its own test folder."""
    test_ratio: Annotated[float, Field(gt=0, lt=1)]
    """Share of each class for test; not used where the archive has its own test folder."""
    max_bad_ratio: Ratio = 0.01
    """The stage fails where a larger share of the images cannot be read."""
    near_duplicate_bits: Annotated[int, Field(ge=0, le=16)] = 4
    """Two images are near-duplicates when their 64-bit perceptual hashes differ in at most so many bits."""

    @model_validator(mode="after")
    def _leaves_train(self) -> "SplitParams":
        if self.val_ratio + self.test_ratio >= 1:
            raise PydanticCustomError("no_train", "val_ratio + test_ratio must be less than 1")
        return self


class PackParams(Section):
    image_size: ImageSize
    """Every image is stored as a square of this side; a training size above it gains nothing."""


class Params(Section):
    """The whole file. No key may be left out: DVC reads each one from the file too."""

    dataset: Annotated[
        SampleDataset | KaggleDataset | ArchiveDataset | Cifar100Dataset, Field(discriminator="source")
    ]
    split: SplitParams
    pack: PackParams
    models: Annotated[list[ModelName], Field(min_length=1)]
    weights: Annotated[str, Field(min_length=1)]
    """``none``, a torchvision name such as IMAGENET1K_V1, or a local .safetensors or .pth file."""
    head: HeadParams
    normalization: Normalization
    seed: Seed
    """Of the data: the split, and the drawn sample."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Of the trainings: each model is trained once a seed. Two or more show how much chance does."""
    lr: LearningRate
    """Peak rate of every phase that does not set its own."""
    batch_size: BatchSize
    label_smoothing: Ratio
    ema_decay: Ratio | None
    """An exponential moving average of the weights is validated and kept; none: the weights themselves."""
    augment: AugmentParams
    phases: Annotated[dict[PhaseName, Phase], Field(min_length=1)]
    """Run in the order of the file."""
    refit: bool
    """Once the run has chosen its epochs and rates by validation, train anew on train + val; keep the end."""
    lr_range_test: LRRangeTest
    evaluate: EvaluateParams
    device: Literal["auto", "cpu", "cuda"]
    devices: Annotated[int, Field(ge=1, le=1024)]
    """Processes on this machine that train one model together, each with a GPU of its own if there is one."""
    deterministic: bool
    """The same bits on the same kind of GPU, or an error; the CPU gives them anyway."""
    precision: Literal["auto", "fp32", "bf16"]
    """auto: bfloat16 autocast where the hardware multiplies it natively."""
    checkpoint_seconds: NonNegativeFloat
    """The most that a kill repeats: a checkpoint is written at the first step after so much time."""

    @model_validator(mode="after")
    def _runs_once(self) -> "Params":
        lists: dict[str, list[Any]] = {"models": self.models, "seeds": self.seeds}
        for key, values in lists.items():
            if twice := sorted({value for value in values if values.count(value) > 1}):
                text = "{key}: {twice} is listed twice"
                raise PydanticCustomError("twice", text, {"key": key, "twice": twice[0]})
        return self

    @model_validator(mode="after")
    def _pads_less_than_the_image(self) -> "Params":
        smallest = min(phase.image_size_at(0) for phase in self.phases.values())
        if self.augment.pad_crop_pixels >= smallest:
            raise PydanticCustomError(
                "padding",
                "augment.pad_crop_pixels: {pixels} is not less than the smallest image, {side} px",
                {"pixels": self.augment.pad_crop_pixels, "side": smallest},
            )
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> "Params":
        for key, size in self._batch_sizes().items():
            if size % self.devices or size < 2 * self.devices:
                raise PydanticCustomError(
                    "devices", _INDIVISIBLE, {"key": key, "size": size, "n": self.devices}
                )
        return self

    def _batch_sizes(self) -> dict[str, int]:
        own = {f"phases.{name}.batch_size": phase.batch_size for name, phase in self.phases.items()}
        return {"batch_size": self.batch_size} | {key: size for key, size in own.items() if size}

    def require_divisible_batches(self, processes: int) -> None:
        """Check every batch size against the processes that torchrun has really started.

        Raises:
            UserError: one cannot be divided among them.
        """
        for key, size in self._batch_sizes().items():
            if size % processes or size < 2 * processes:
                raise UserError(f"params.yaml: {_INDIVISIBLE.format(key=key, size=size, n=processes)}")


class _Loader(yaml.SafeLoader):
    """Reads 1e-5 as a number, as YAML 1.2 and DVC do: `dvc exp run -S lr=1e-5` writes it so."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)
_INDIVISIBLE = "{key}: {size} images must be divisible by {n} devices, with two images or more for each"


def load_params(file: Path = paths.PARAMS) -> Params:
    """Read and check the whole file before any work starts.

    Raises:
        UserError: the file is missing or not YAML, or as ``check``.
    """
    return validate(load_yaml(file), str(file))


def load_yaml(file: Path = paths.PARAMS) -> dict[str, Any]:
    """What the file says, unchecked.

    Raises:
        UserError: it is missing or not YAML.
    """
    try:
        data = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(
            f"{file}: not found; run from the project's folder, or copy a file of recipes/ here"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{file}: must be a mapping of keys to values, but is {type(data).__name__}")
    return data


def validate(data: dict[str, Any], where: str) -> Params:
    """Parameters as typed values.

    Args:
        where: they come from, for the message.

    Raises:
        UserError: a key is unknown, missing, mistyped or out of range; one line each, with the key, the
            value, what is allowed and the nearest known key.
    """
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise UserError("\n".join(f"{where}: {_describe_error(e)}" for e in error.errors())) from None


_UNION_TAGS = frozenset("sample kaggle archive cifar100 sgd adamw constant step cosine one_cycle".split())


def _describe_error(error: Any) -> str:
    """One line: key, value, what is allowed."""
    loc = list(error["loc"])
    # pydantic puts the tag of a union into the location; a user never wrote it there
    where = ".".join(
        str(p)
        for i, p in enumerate(loc)
        if not (i and p in _UNION_TAGS and loc[i - 1] in ("dataset", "optimizer", "schedule"))
        and not str(p).startswith("@")
        and p != "[key]"
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
    if isinstance(value, str) and kind in ("float_type", "int_type") and _is_number(value):
        message += f"; in quotes it is text: write {float(value)!r}"
    elif kind == "float_type" and loc[-1] == "@number or auto":
        message += " or auto"
    if kind == "literal_error" and isinstance(value, str):
        near = difflib.get_close_matches(value, re.findall(r"'([^']*)'", message), n=1)
        message += f"; did you mean '{near[0]}'?" if near else ""
    return f"{where}: {shown}{message}" if where else f"{shown}{message}"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
