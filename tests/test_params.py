"""params.yaml is a closed, typed record, and each refusal names key, value, what is allowed and the cure."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torchvision
import yaml
from pipeline import ROOT

from finegrain import params
from finegrain.errors import UserError


def changed(tmp_path: Path, **changes: Any) -> Path:
    """A copy of the project's params.yaml with keys replaced; ``a__b`` stands for a.b, None removes."""
    data = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, value in changes.items():
        *parents, key = name.split("__")
        section = data
        for parent in parents:
            section = section[parent]
        if value is None:
            del section[key]
        else:
            section[key] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    return file


def refusal(file: Path) -> str:
    with pytest.raises(UserError) as caught:
        params.read(file)
    return str(caught.value).replace(str(file), "params.yaml")


@pytest.mark.parametrize("file", [ROOT / "params.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))], ids=str)
def test_every_committed_params_file_is_valid(file):
    config = params.read(file)
    assert config.models and config.phases


def test_the_sample_recipe_is_the_committed_params_file():
    assert params.read(ROOT / "recipes" / "sample.yaml") == params.read(ROOT / "params.yaml")


def test_model_names_are_torchvision_s():
    wanted = {
        name
        for name in torchvision.models.list_models(module=torchvision.models)
        if name.startswith(("resnet", "resnext", "wide_resnet", "efficientnet"))
    }
    assert set(get_args(params.ModelName)) == wanted


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"batchsize": 4},
            ["unknown key 'batchsize'", "value 4", "did you mean 'batch_size'?", "allowed: dataset"],
        ),
        ({"phases__all__epoch": 4}, ["phases.all: unknown key 'epoch'", "did you mean 'epochs'?"]),
        ({"lr": None}, ["params.yaml: lr: is missing"]),
        ({"lr": -1.0}, ["lr: -1.0", "greater than 0"]),
        ({"lr": float("nan")}, ["lr: nan", "finite number"]),
        ({"lr": "1e-3"}, ["lr: '1e-3'", "YAML 1.1 reads 1e-3 as text: write 0.001"]),
        ({"lr": "fast"}, ["lr: 'fast'", "valid number"]),
        ({"phases__all__epochs": 0}, ["phases.all.epochs: 0", "greater than 0"]),
        ({"phases__all__epochs": 2.5}, ["phases.all.epochs: 2.5", "valid integer"]),
        ({"phases__all__schedule__kind": "cosin"}, ["phases.all.schedule", "cosine"]),
        ({"phases": {}}, ["phases", "at least 1"]),
        ({"models": []}, ["models", "at least 1"]),
        ({"models": ["resnet81"]}, ["models.0: 'resnet81'", "did you mean 'resnet18'?"]),
        ({"models": ["resnet18", "resnet18"]}, ["resnet18 is listed twice"]),
        ({"dataset__source": "kagle"}, ["dataset", "kaggle"]),
        (
            {"dataset": {"name": "a", "source": "kaggle", "slug": "owner/data"}},
            ["dataset.slug: 'owner/data'"],
        ),
        ({"dataset__name": "../up"}, ["dataset.name: '../up'"]),
        ({"dataset": {"name": "a", "source": "cifar100"}}, ["dataset", "either slug (Kaggle) or path"]),
        ({"split__val_ratio": 0.9}, ["val_ratio + test_ratio must be less than 1"]),
        ({"augment__crop_scale": [0.9, 0.1]}, ["crop_scale", "must not be above the second"]),
        ({"augment__flip": "yes"}, ["augment.flip: 'yes'", "valid boolean"]),
        ({"pack__side_pixels": 10**9}, ["pack.side_pixels: 1000000000", "1024"]),
    ],
    ids=str,
)
def test_refusals_name_key_value_and_cure(tmp_path, changes, parts):
    message = refusal(changed(tmp_path, **changes))
    assert all(part in message for part in parts), message
    assert message.startswith("params.yaml: ")
    assert "\n" not in message


def test_every_mistake_is_listed_at_once(tmp_path):
    assert len(refusal(changed(tmp_path, lr=-1.0, seed=-1, batch_size=0)).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "part"),
    [("- a\n- b\n", "must be a mapping"), ("a: [1\n", "not readable as YAML"), ("", "must be a mapping")],
)
def test_files_that_are_no_mapping_are_refused(tmp_path, text, part):
    file = tmp_path / "params.yaml"
    file.write_text(text)
    assert part in refusal(file)


def test_a_missing_file_says_where_to_get_one(tmp_path):
    assert "recipes/" in refusal(tmp_path / "params.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    file = changed(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert params.read(file) == params.read(ROOT / "params.yaml")


def test_integers_are_taken_where_a_number_is_wanted(tmp_path):
    assert params.read(changed(tmp_path, lr=1)).lr == 1.0
