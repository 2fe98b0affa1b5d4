"""params.yaml files for tests: copies of the project's own with some keys replaced."""

import copy
from pathlib import Path
from typing import Any

import yaml
from pipeline import ROOT


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
