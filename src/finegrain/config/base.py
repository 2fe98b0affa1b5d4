"""What every mapping of params.yaml is: closed, frozen, without silent conversions."""

import difflib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Ratio = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
BatchSize = Annotated[int, Field(ge=2)]
"""Batch norm has no variance of one image."""
ImageSize = Annotated[int, Field(ge=32, le=1024)]


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
"""Keys of earlier versions, in whatever section."""
REPLACED_KEYS = {"start_ratio": "div_factor, its inverse", "end_ratio": "final_div_factor"}


def _unknown_key(key: Any, value: Any, allowed: list[str]) -> PydanticCustomError:
    if RENAMED_KEYS.get(key) in allowed:
        hint = f"is now called '{RENAMED_KEYS[key]}'; "
    elif key in REPLACED_KEYS:
        hint = f"is now given as {REPLACED_KEYS[key]}; "
    else:
        near = difflib.get_close_matches(str(key), allowed, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
    return PydanticCustomError(
        "unknown_key",
        "unknown key '{key}' (value {value}): {hint}allowed: {allowed}",
        {"key": key, "value": repr(value), "hint": hint, "allowed": ", ".join(allowed)},
    )


class Section(BaseModel):
    """A mapping of params.yaml: an unknown key is refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for key, value in data.items():
                if key not in cls.model_fields:
                    raise _unknown_key(key, value, list(cls.model_fields))
        return data


def ordered(pair: tuple[float, float]) -> tuple[float, float]:
    """Refuse a range whose first number is above its second."""
    if pair[0] > pair[1]:
        raise PydanticCustomError("order", "the first number must not be above the second")
    return pair
