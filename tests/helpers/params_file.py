"""params.yaml files for tests: copies of the project's own with some keys replaced; the errors they cause."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline import ROOT

from finegrain.config import params
from finegrain.core.errors import UserError

PHASE: dict[str, Any] = {
    "trainable": "all",
    "epochs": 1,
    "image_size": 32,
    "optimizer": {"kind": "sgd"},
    "schedule": {"kind": "constant"},
}
"""A phase that is trained, with only the required keys."""
SOLVED_PHASE: dict[str, Any] = {"solve": "ridge", "image_size": 32}
"""A phase that is solved, likewise."""


def write_params(folder: Path, **changes: Any) -> Path:
    """Write the project's params.yaml with some keys replaced into ``folder``.

    Args:
        changes: new values by key; ``a__b`` stands for the key a.b, and None removes the key.

    Returns:
        The file written, ``folder/params.yaml``.
    """
    data = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, value in changes.items():
        *parents, key = name.split("__")
        section = data
        for parent in parents:
            section = section[parent]
        if value is None:
            del section[key]
        else:
            section[key] = copy.deepcopy(value)  # a later change must not reach the caller's value
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    return file


def error_message(file: Path) -> str:
    """The message of the error that the file causes, the same for every folder."""
    with pytest.raises(UserError) as caught:
        params.load_params(file)
    return str(caught.value).replace(str(file), "params.yaml")
