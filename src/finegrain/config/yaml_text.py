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
    """Check every key, and every scalar that is not in quotes.

    Args:
        file: its name, for the message.

    Raises:
        UserError: a scalar has two readings, or a key is given twice; the message has the line and the fix.
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
        lines: dict[str, int] = {}
        for key, value in node.value:
            _check(file, key, keys, seen)
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if (first := lines.setdefault(key.value, line)) != line:
                    name = ".".join((*keys, key.value))
                    raise UserError(f"{file} line {line}: {name}: is in line {first} already; remove one")
            _check(file, value, (*keys, str(key.value)), seen)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _check(file, value, (*keys, str(i)), seen)
    elif isinstance(node, yaml.ScalarNode) and node.style is None and _AMBIGUOUS.fullmatch(node.value):
        where = f"{file} line {node.start_mark.line + 1}: {'.'.join(keys) or 'a key'}: {node.value}"
        raise UserError(f"{where}: versions of YAML read it differently; write {_clear(node.value)}")


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


def describe_yaml_error(error: yaml.MarkedYAMLError) -> str:
    """Describe a mistake in the syntax, for the most usual ones with the fix, as ``line 3: ...``."""
    mark, problem = error.problem_mark or error.context_mark, str(error.problem)
    if "'\\t'" in problem:
        problem = "begins with a tab; indent with spaces"
    elif "could not find expected ':'" in problem and error.context_mark:
        mark, problem = error.context_mark, "expected `key: value`, with a space after the colon"
    elif "mapping values are not allowed" in problem:
        problem = "unexpected ':'; put text with a colon in quotes, or fix the line above"
    elif "expected <block end>" in problem:
        problem = "indented differently from the lines above, or a bracket or quote there is not closed"
    else:
        problem = f"not YAML here: {' '.join(problem.split())}"
    return f"line {mark.line + 1}: {problem}" if mark else problem
