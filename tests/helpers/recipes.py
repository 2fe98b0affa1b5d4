"""The recipes of recipes/*.yaml, as they are and shrunk."""

import copy
from pathlib import Path
from typing import Any

import yaml
from pipeline import ROOT

from finegrain.config import params

RECIPES: dict[str, dict[str, Any]] = {
    file.stem: yaml.safe_load(file.read_text()) for file in sorted((ROOT / "recipes").glob("*.yaml"))
}


REFERENCES = {"stanford-cars-sgd", "stanford-cars-one-cycle", "cifar100-mlp-head", "stanford-cars-freeze"}
"""Recipes that repeat public projects step by step."""
PUBLISHED_TABLES = {
    "cub-200-2011": "cub-200-2011",
    "fgvc-aircraft": "fgvc-aircraft",
    "stanford-cars-official": "stanford-cars",
}
"""Recipes of datasets whose classes and official splits are in published tables, and their layouts."""


def read(data: dict[str, Any], folder: Path) -> params.Params:
    """Write a recipe as params.yaml into the folder, and read it."""
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    return params.load_params(file)


def shrunk(name: str) -> dict[str, Any]:
    """A recipe with its structure kept and everything that costs time made small."""
    data = copy.deepcopy(RECIPES[name])
    data["dataset"] = {"name": name, "source": "sample", "images_per_class": 6, "image_size": 32}
    data["pack"]["image_size"] = 32
    data |= {"models": ["resnet18"], "weights": "none", "batch_size": 16}
    data["lr_range_test"]["steps"] = 10
    data["evaluate"]["image_size"] = None
    for phase in data["phases"].values():
        if "solve" in phase:
            phase["image_size"] = 32
            continue
        phase["epochs"] = 1
        phase["image_size"] = 32 if isinstance(phase["image_size"], int) else [32, 64]
        phase.pop("batch_size", None)
        if "warmup_epochs" in phase["schedule"]:
            phase["schedule"]["warmup_epochs"] = 0.5
    return data
