"""One line for the user for each validation error: the key, its value, what is allowed, and a suggestion."""

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

MAX_LETTERS = 120
"""Longest value that a message shows whole."""
_TAG_INVALID, _TAG_MISSING = "union_tag_invalid", "union_tag_not_found"
_UNION_KEYS = ("dataset", "optimizer", "schedule")
_UNION_TAGS = frozenset("sample kaggle archive cifar100 sgd adamw constant step cosine one_cycle".split())


_REQUIREMENTS = {
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of keys to values",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt:.10g}",
    "greater_than_equal": "must be at least {ge:.10g}",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt:.10g}",
    "less_than_equal": "must be at most {le:.10g}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "model_attributes_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    "tuple_type": "must be a list",
}
"""What a value must be, by the type of pydantic's error; its own words speak of Python's types."""
_PATTERNS = {
    "[key]": "may have letters, digits, '.', '_', '+' and '-', a letter or digit first",
    "name": "may have letters, digits, '.', '_' and '-', a letter or digit first",
    "sha256": "must be 64 of the digits 0-9 and a-f",
    "slug": "must be owner/dataset/version, such as fedesoriano/cifar100/1",
}
"""What the regular expression of a key means."""
_SYNONYMS = {
    "acc": "top1",
    "accuracy": "top1",
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "folder": "archive",
    "gpu": "cuda",
    "half": "fp16",
    "learning_rate": "lr",
    "zip": "archive",
}
"""Words of other projects, and ours."""


def describe_error(error: ErrorDetails) -> str:
    """Describe an error of pydantic's validation in one line."""
    key = _key_path(error)
    return f"{key}: {_problem(error)}" if key else _problem(error)


def describe_first(error: ValidationError) -> str:
    """Describe the first of the errors, for a file that the user does not write."""
    return describe_error(error.errors()[0])


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
    if _is_missing_entry(error):
        keys.pop()
    if error["type"] in (_TAG_INVALID, _TAG_MISSING):
        keys.append(error["ctx"]["discriminator"].strip("'"))
    return ".".join(key if len(key) <= MAX_LETTERS else f"{key[:40]}..." for key in keys)


def _is_missing_entry(error: ErrorDetails) -> bool:
    """Whether a list is too short for its fixed length."""
    return error["type"] == "missing" and isinstance(error["loc"][-1], int)


def _problem(error: ErrorDetails) -> str:
    """What is wrong, with the value itself unless it is a mapping."""
    kind, value = error["type"], error["input"]
    if _is_missing_entry(error):
        return f"value {int(error['loc'][-1]) + 1} of the list is missing"
    if kind in ("missing", _TAG_MISSING):
        return "is missing"
    if kind == "unknown_key":
        return error["msg"]
    if kind == _TAG_INVALID:
        value, allowed = error["ctx"]["tag"], error["ctx"]["expected_tags"]
        return f"{shorten(value)}: must be one of {allowed}{_did_you_mean(value, allowed)}"
    message = _requirement(error) + _suggestion(error)
    if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        return f"a list: {message}"
    return message if isinstance(value, dict) else f"{shorten(value)}: {message}"


def _requirement(error: ErrorDetails) -> str:
    """What the value must be."""
    context = error.get("ctx", {})
    if error["type"] == "too_short" and context["min_length"] == 1:
        return "must not be empty"
    if error["type"] == "string_pattern_mismatch":
        return _PATTERNS.get(str(error["loc"][-1]), f"must match {context['pattern']}")
    if text := _REQUIREMENTS.get(error["type"]):
        return text.format_map(context)
    return error["msg"][0].lower() + error["msg"][1:]


def shorten(value: Any) -> str:
    """A value as YAML writes it; a long one loses its middle."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = hex(value)
    return text if len(text) <= MAX_LETTERS else f"{text[:40]}...{text[-20:]}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of the known words that was probably meant."""
    known = list(known)
    if _SYNONYMS.get(word) in known:
        return _SYNONYMS[word]
    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


def _suggestion(error: ErrorDetails) -> str:
    """The end of the message: what the user may have meant."""
    kind, value = error["type"], error["input"]
    if kind in ("float_type", "int_type") and isinstance(value, str):
        if _is_number(value):
            number = float(value)
            if kind == "float_type":
                return f"; in quotes it is text: write {number!r}"
            return f"; in quotes it is text: write {int(number)}" if number.is_integer() else ""
        if _is_number(value.replace(",", ".")):
            return f"; write {value.replace(',', '.')}"
        if value.endswith("%") and _is_number(value[:-1]):
            return f"; write {float(value[:-1]) / 100:g}"
    if kind == "float_type" and error["loc"][-1] == "@number or auto":
        return " or auto"
    if kind == "list_type" and isinstance(value, str | int):
        return f"; write [{value}]"
    if kind == "string_type" and error["loc"][0] == "weights" and not value:
        return "; none means random weights"
    if error["loc"][-1:] == ("[key]",) and not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        return f"; YAML reads it as {kind}: put the name in quotes"
    if kind == "literal_error" and isinstance(value, str):
        return _did_you_mean(value, error["msg"])
    return ""


def _did_you_mean(value: str, allowed: str) -> str:
    """The closest of the allowed values, which stand in quotes in the text ``allowed``."""
    near = nearest(value, re.findall(r"'([^']*)'", allowed))
    return f"; did you mean '{near}'?" if near else ""


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
