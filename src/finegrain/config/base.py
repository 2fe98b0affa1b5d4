"""The type of each mapping in params.yaml (closed, frozen, no type conversions), and types of numbers."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from finegrain.config.messages import nearest, shorten

# every number has both limits: beyond them a float32 overflows, a loop does not end, or memory is too small
Ratio = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(ge=1e-12, le=1e12, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=1e-30, le=1e6, allow_inf_nan=False)]
"""A learning rate."""
Epochs = Annotated[int, Field(ge=1, le=10_000)]
BatchSize = Annotated[int, Field(ge=2, le=65_536)]
"""At least 2, because batch norm needs the variance over several images."""
ImageSize = Annotated[int, Field(ge=32, le=1024)]
"""Height and width in pixels."""
ImageFit = Literal["squash", "crop", "letterbox"]
"""How photos that are not square become so; as ``decoding.Fit``, whose module is copied without this one."""

ModelName = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
    "wide_resnet50_2", "wide_resnet101_2",
    "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7",
    "efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l",
]  # fmt: skip
"""Listed here so that the file is checked without importing torchvision; a test compares the two lists."""

REPORT_FILES = ("index.html", "leaderboard.md", "leaderboard.json", "curves.png", "accuracy_vs_time.png")


def _reject_report_file(name: str) -> str:
    """Reject a name whose folder in reports/ would stand where a file of the report must be."""
    if name in REPORT_FILES:
        raise PydanticCustomError("report_file", "is the name of a file in reports/; choose another")
    return name


DatasetName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64),
    AfterValidator(_reject_report_file),
]

RENAMED_KEYS = {
    "colour_probability": "color_probability",
    "lr_decay": "layer_decay",
    "lr_factors": "layer_lr_multipliers",
    "normalisation": "normalization",
    "part": "trainable",
    "side_pixels": "image_size",
    "tilt": "perspective",
    "up_ratio": "pct_start",
}
"""Old names of keys, in any section, and their new names."""
REPLACED_KEYS = {"start_ratio": "div_factor, its inverse", "end_ratio": "final_div_factor"}
"""Old keys whose value must be converted too, and what replaces them."""


def _unknown_key(
    key: Any, value: Any, allowed: list[str], elsewhere: Mapping[str, str]
) -> PydanticCustomError:
    if RENAMED_KEYS.get(key) in allowed:
        hint = f"is now called '{RENAMED_KEYS[key]}'; "
    elif key in REPLACED_KEYS:
        hint = f"is now given as {REPLACED_KEYS[key]}; "
    elif key in elsewhere:
        hint = f"{elsewhere[key]}; "
    else:
        near = nearest(str(key), allowed)
        hint = f"did you mean '{near}'? " if near else ""
    return PydanticCustomError(
        "unknown_key",
        "unknown key '{key}' (value {value}): {hint}allowed: {allowed}",
        {"key": key, "value": shorten(value), "hint": hint, "allowed": ", ".join(allowed)},
    )


class Section(BaseModel):
    """A mapping in params.yaml; an error about an unknown key suggests the closest known one.

    The docstring below a field is its text in docs/PARAMETERS.md and docs/params.schema.json.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Keys that users look for in this section, and the end of the message for each."""

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            allowed = [field.alias or name for name, field in cls.model_fields.items()]
            for key, value in data.items():
                if key not in allowed:
                    raise _unknown_key(key, value, allowed, cls.elsewhere)
        return data


def require_order(pair: tuple[float, float]) -> tuple[float, float]:
    """Reject a pair whose first number is above its second."""
    if pair[0] > pair[1]:
        raise PydanticCustomError("order", "the first number must not be above the second")
    return pair
