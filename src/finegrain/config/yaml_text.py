"""Read YAML 1.1 as YAML 1.2, and reject the values that they read differently.

DVC reads params.yaml by YAML 1.2, PyYAML by 1.1: ``016`` is 16 for one and 14 for the other. dvc.lock and
`dvc params diff` would then show another value than the one that trained.
"""

import re

import yaml

from finegrain.core.errors import UserError


class Loader(yaml.SafeLoader):
    """Reads 1e-5 as a number, as YAML 1.2 does: `dvc exp run -S lr=1e-5` writes it like this."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)

_SIGN = "[-+]?"
_AMBIGUOUS = re.compile(
    rf"{_SIGN}0[0-9_]*[1-9][0-9_]*|{_SIGN}00+|{_SIGN}0o[0-7_]+|{_SIGN}[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    "|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"
)
_TRUE = ("yes", "on")
_FALSE = ("no", "off")


def reject_ambiguous(file: str, text: str) -> None:
    """Check every scalar that is not in quotes.

    Args:
        file: its name, for the message.

    Raises:
        UserError: one of them has two readings; the message has its key, its line and what to write.
        yaml.YAMLError: the text is not YAML.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None:
        _check(file, root, (), set())


def _check(file: str, node: yaml.Node, keys: tuple[str, ...], seen: set[int]) -> None:
    if id(node) in seen:  # an alias, which may even contain itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _check(file, key, keys, seen)
            _check(file, value, (*keys, str(key.value)), seen)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _check(file, value, (*keys, str(i)), seen)
    elif isinstance(node, yaml.ScalarNode) and node.style is None and _AMBIGUOUS.fullmatch(node.value):
        where = f"{file} line {node.start_mark.line + 1}: {'.'.join(keys) or 'a key'}: {node.value}"
        raise UserError(
            f"{where}: YAML 1.1 and 1.2, which DVC uses, differ about it; write {_clear(node.value)}"
        )


def _clear(text: str) -> str:
    """What to write instead."""
    quoted = f"'{text}' for text"
    if text.lower() in _TRUE or text.lower() in _FALSE:
        return f"{'true' if text.lower() in _TRUE else 'false'}, or {quoted}"
    if ":" in text:
        return f"a plain number, or {quoted}"
    digits = text.replace("_", "")
    number = int(digits, 8) if "o" in digits else int(digits)
    return f"{number}, or {quoted}"
