"""One line for the user for each validation error: the key, its value, what is allowed, and a suggestion."""

import difflib
import math
import re
from typing import Any

from pydantic_core import ErrorDetails

MAX_LETTERS = 120
"""Longest value that a message shows whole."""
_TAG_INVALID, _TAG_MISSING = "union_tag_invalid", "union_tag_not_found"
_UNION_KEYS = ("dataset", "optimizer", "schedule")
_UNION_TAGS = frozenset("sample kaggle archive cifar100 sgd adamw constant step cosine one_cycle".split())


def describe_error(error: ErrorDetails) -> str:
    """Describe an error of pydantic's validation in one line."""
    key = _key_path(error)
    return f"{key}: {_problem(error)}" if key else _problem(error)


def _key_path(error: ErrorDetails) -> str:
    """The key as the user wrote it, such as ``phases.all.lr``.

    pydantic adds to a location the tag that chose a member of a union, and a mark for a mapping's keys. Both
    are left out. A tag that starts with @ is always such an addition (``training.LearningRate``).
    """
    location = error["loc"]
    keys = [
        str(part)
        for i, part in enumerate(location)
        if not (i and part in _UNION_TAGS and location[i - 1] in _UNION_KEYS)
        and not str(part).startswith("@")
        and part != "[key]"
    ]
    if error["type"] in (_TAG_INVALID, _TAG_MISSING):
        keys.append(error["ctx"]["discriminator"].strip("'"))
    return ".".join(key if len(key) <= MAX_LETTERS else f"{key[:40]}..." for key in keys)


def _problem(error: ErrorDetails) -> str:
    """What is wrong, with the value itself unless it is a mapping."""
    kind, message, value = error["type"], error["msg"], error["input"]
    if kind in ("missing", _TAG_MISSING):
        return "is missing"
    if kind == "unknown_key":
        return message
    if kind == _TAG_INVALID:
        value, allowed = error["ctx"]["tag"], error["ctx"]["expected_tags"]
        return f"{shorten(value)}: must be one of {allowed}{_did_you_mean(value, allowed)}"
    message = message[0].lower() + message[1:] + _suggestion(error)
    return message if isinstance(value, dict) else f"{shorten(value)}: {message}"


def shorten(value: Any) -> str:
    """A value as Python writes it; a long one loses its middle."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = hex(value)
    return text if len(text) <= MAX_LETTERS else f"{text[:40]}...{text[-20:]}"


def _suggestion(error: ErrorDetails) -> str:
    """The end of the message: what the user may have meant."""
    kind, value = error["type"], error["input"]
    if kind in ("float_type", "int_type") and isinstance(value, str) and _is_number(value):
        number = float(value)
        if kind == "float_type":
            return f"; in quotes it is text: write {number!r}"
        return f"; in quotes it is text: write {int(number)}" if number.is_integer() else ""
    if kind == "float_type" and error["loc"][-1] == "@number or auto":
        return " or auto"
    if error["loc"][-1:] == ("[key]",) and not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        return f"; YAML reads it as {kind}: put the name in quotes"
    if kind == "literal_error" and isinstance(value, str):
        return _did_you_mean(value, error["msg"])
    return ""


def _did_you_mean(value: str, allowed: str) -> str:
    """The closest of the allowed values, which stand in quotes in the text ``allowed``."""
    near = difflib.get_close_matches(value, re.findall(r"'([^']*)'", allowed), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
