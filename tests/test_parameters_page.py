"""docs/PARAMETERS.md and its schema are those of the code; the schema accepts params.yaml and the recipes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import parameters
import pytest
from jsonschema import Draft202012Validator
from pipeline import ROOT
from ruamel.yaml import YAML

from finegrain.config.params import Params

FILES = [ROOT / "params.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))]


def test_page_and_schema_are_current():
    schema = parameters.json_schema()
    assert json.loads(parameters.SCHEMA.read_text()) == schema, "run `make docs`"
    assert parameters.PAGE.read_text() == parameters.page(schema), "run `make docs`"


def test_every_key_is_listed_in_the_order_of_params_yaml_and_explained():
    keys = list(YAML().load(FILES[0]))
    assert list(Params.model_fields) == keys
    headings = re.findall(r"^## (.+)$", parameters.PAGE.read_text(), re.M)
    assert [key for heading in headings for key in re.findall(r"`(\w+)`", heading)] == keys
    for definition in json.loads(parameters.SCHEMA.read_text())["$defs"].values():
        for key, schema in definition.get("properties", {}).items():
            assert "const" in schema or len(schema["description"]) > 15, key


def test_the_schema_accepts_params_yaml_and_every_recipe():
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [program, "--schemafile", parameters.SCHEMA, *FILES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("old", "new", "accepted"),
    [
        ("labels: null", "labels: labels.csv", True),
        ("labels: null", "labels: {file: {train: a.csv, test: b.csv}}", True),
        ("lr: 0.001", "lr: auto", True),
        ("lr: 0.001", "lr: 1e-3", True),
        ("lr: 0.001", "lr: fast", False),
        ("solve: ridge", "solve: lasso", False),
        ("source: archive", "source: disk", False),
        ("image_size: 256", "image_sise: 256", False),
        ("models: [resnet18, resnet50]", "models: [resnet19]", False),
    ],
)
def test_the_schema_accepts_what_a_value_may_be(old, new, accepted):
    text = (ROOT / "recipes" / "photos.yaml").read_text()
    assert old in text
    data = YAML(typ="safe").load(text.replace(old, new))
    assert Draft202012Validator(parameters.json_schema()).is_valid(data) == accepted


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_editors_find_the_schema(file):
    first = file.read_text().splitlines()[0]
    found = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert found and ROOT / found[1] == parameters.SCHEMA  # a recipe is copied to the root before it is used
