"""params.yaml is a closed, typed record; each error names the key, the value, what is allowed and the fix."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torchvision
from dvc.utils.hydra import apply_overrides
from params_file import write_params
from pipeline import ROOT

from finegrain.config import base, params
from finegrain.config.phases import Phase
from finegrain.core.errors import UserError

MINIMAL_PHASE = {
    "trainable": "all",
    "epochs": 1,
    "image_size": 32,
    "optimizer": {"kind": "sgd"},
    "schedule": {"kind": "constant"},
}
"""A phase with only the required keys."""
SOLVED_PHASE = {"solve": "ridge", "image_size": 32}
"""Likewise."""


def error_message(file: Path) -> str:
    """The message of the error that the file causes, the same for every folder."""
    with pytest.raises(UserError) as caught:
        params.load_params(file)
    return str(caught.value).replace(str(file), "params.yaml")


@pytest.mark.parametrize("file", [ROOT / "params.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))], ids=str)
def test_every_committed_params_file_is_valid(file):
    config = params.load_params(file)
    assert config.models and config.phases


@pytest.mark.parametrize("written", ["1e-05", "1e-5", "1E-5", "0.1e-4", ".00001", "1.0e-05"])
def test_a_number_is_one_however_it_is_written(tmp_path, written):
    """DVC writes 1e-05 for `-S lr=0.00001`, which PyYAML alone reads as text."""
    file = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    file.write_text(re.sub(r"^lr: \S+", f"lr: {written}", text, flags=re.M))
    assert params.load_params(file).lr == 1e-5


def test_model_names_are_torchvision_s():
    expected = {
        name
        for name in torchvision.models.list_models(module=torchvision.models)
        if name.startswith(("resnet", "resnext", "wide_resnet", "efficientnet"))
    }
    assert set(get_args(params.ModelName)) == expected


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"batchsize": 4},
            ["unknown key 'batchsize'", "value 4", "did you mean 'batch_size'?", "allowed: dataset"],
        ),
        ({"phases__all__epoch": 4}, ["phases.all: unknown key 'epoch'", "did you mean 'epochs'?"]),
        ({"lr": None}, ["params.yaml: lr: is missing"]),
        ({"lr": -1.0}, ["lr: -1.0", "greater than or equal to"]),
        ({"lr": float("nan")}, ["lr: nan", "finite number"]),
        ({"lr": "0.001"}, ["lr: '0.001'", "in quotes it is text: write 0.001"]),
        ({"lr": "fast"}, ["lr: 'fast'", "valid number or auto"]),
        ({"phases__all__lr": "0.003"}, ["phases.all.lr: '0.003'", "write 0.003"]),
        ({"phases__all__image_size": 16}, ["phases.all.image_size: 16", "32"]),
        ({"phases__all__image_size": [64, 16]}, ["phases.all.image_size.1: 16", "32"]),
        ({"phases__all__image_size": [96, 64]}, ["phases.all.image_size", "must not be above the second"]),
        (
            {"phases__all__layer_decay": 0.8, "phases__all__layer_lr_multipliers": [0.1, 0.2, 1.0]},
            ["phases.all", "not both"],
        ),
        (
            {"phases__all__optimizer": {"kind": "sgd", "momentum": 0.0, "nesterov": True}},
            ["needs a momentum"],
        ),
        ({"phases": {"a/b": MINIMAL_PHASE}}, ["phases.a/b", "pattern"]),
        ({"head__dropouts": [0.5]} | {"head__widths": [8]}, ["head", "one for each of the 2 linear layers"]),
        ({"head__pool": "max"}, ["head.pool: 'max'", "'avg'"]),
        ({"normalization": "cifar"}, ["normalization: 'cifar'", "'imagenet'"]),
        ({"normalization": {"mean": [0.5, 0.5, 0.5]}}, ["normalization.std: is missing"]),
        ({"lr_range_test__start": 20.0}, ["lr_range_test", "start must be below end"]),
        ({"ema_decay": 1.0}, ["ema_decay: 1.0", "less than 1"]),
        ({"augment__zoom": 0.5}, ["augment.zoom: 0.5", "greater than or equal to 1"]),
        ({"evaluate__flips": True}, ["evaluate: unknown key 'flips'", "did you mean 'flip'?"]),
        (
            {"augment__pad_crop_pixels": 40, "phases__all__image_size": 32},
            ["augment.pad_crop_pixels: 40", "32"],
        ),
        ({"batch_size": 10**20}, ["batch_size: 100000000000000000000", "less than or equal to"]),
        ({"lr": 1e30}, ["lr: 1e+30", "less than or equal to"]),
        ({"augment__mixup_alpha": 1e-9}, ["augment.mixup_alpha: 1e-09", "0 (off) or at least 0.01"]),
        ({"normalization": {"mean": [0, 0, 0], "std": [0.0, 1, 1]}}, ["normalization.std.0: 0.0", "0.001"]),
        ({"dataset__name": "x" * 300}, ["dataset.name: 'xxx", "...", "at most 64"]),
        ({"phases": {"x" * 300: MINIMAL_PHASE}}, ["at most 64"]),
        ({"batch_size": 1}, ["batch_size: 1", "greater than or equal to 2"]),
        ({"phases__all__batch_size": 1}, ["phases.all.batch_size: 1", "greater than or equal to 2"]),
        ({"refit": None}, ["refit: is missing"]),
        ({"phases__all__epochs": 0}, ["phases.all.epochs: 0", "greater than or equal to 1"]),
        ({"phases__all__epochs": 2.5}, ["phases.all.epochs: 2.5", "valid integer"]),
        ({"phases__all__schedule__kind": "cosin"}, ["phases.all.schedule.kind: 'cosin'", "'cosine'"]),
        ({"phases": {}}, ["phases", "at least 1"]),
        ({"models": []}, ["models", "at least 1"]),
        ({"models": ["resnet81"]}, ["models.0: 'resnet81'", "did you mean 'resnet18'?"]),
        ({"models": ["resnet18", "resnet18"]}, ["models: resnet18 is listed twice"]),
        ({"seeds": [1, 0, 1]}, ["seeds: 1 is listed twice"]),
        ({"seeds": []}, ["seeds", "at least 1"]),
        ({"dataset__source": "kagle"}, ["dataset.source: 'kagle'", "did you mean 'kaggle'?"]),
        ({"dataset__source": None}, ["dataset.source: is missing"]),
        (
            {"dataset": {"name": "a", "source": "kaggle", "slug": "owner/data"}},
            ["dataset.slug: 'owner/data'"],
        ),
        ({"dataset__name": "../up"}, ["dataset.name: '../up'"]),
        ({"dataset": {"name": "a", "source": "cifar100"}}, ["dataset", "either slug (Kaggle) or path"]),
        ({"split__val_ratio": 0.9}, ["val_ratio + test_ratio must be at most 0.99"]),
        ({"augment__crop_scale": [0.9, 0.1]}, ["crop_scale", "must not be above the second"]),
        ({"augment__flip": "yes"}, ["augment.flip: 'yes'", "valid boolean"]),
        ({"pack__image_size": 10**9}, ["pack.image_size: 1000000000", "1024"]),
        (
            {"phases__all__head": {"widths": [8]}},
            ["phases.all.head: the last phase trains the top-level head; remove this key"],
        ),
        (
            {"phases": {"one": SOLVED_PHASE}, "head": {"widths": [8]}},
            ["phases.one.solve: only a single linear layer can be solved", "head.widths"],
        ),
        (
            {"phases": {"one": SOLVED_PHASE}, "head": {"batch_norm": True}},
            ["phases.one.solve", "head.batch_norm to false"],
        ),
        ({"head": {"stage": "layer3"}}, ["head: stage and channels need pool: covariance"]),
        ({"head": {"pool": "avg", "channels": 64}}, ["head: stage and channels need pool: covariance"]),
        (
            {"head": {"pool": "covariance", "stage": ["layer2", "layer3", "layer2"]}},
            ["head: stage: a stage is listed twice"],
        ),
        ({"head": {"pool": "covariance", "stage": "layer5"}}, ["head.stage: 'layer5'", "'layer4'"]),
        ({"head": {"pool": "covariance", "stage": ["layer5"]}}, ["head.stage.0: 'layer5'", "'layer4'"]),
        (
            {"head": {"pool": "covariance"}, "phases": {"one": SOLVED_PHASE}},
            ["phases.one.image_size: 32: the covariance of layer4 needs at least 33 pixels"],
        ),
        ({"head": {"pool": "covariance", "stage": []}}, ["head.stage: []", "at least 1"]),
        (
            {"head": {"pool": "covariance", "channels": 0}},
            ["head.channels: 0", "greater than or equal to 1"],
        ),
        (
            {"phases": {"one": SOLVED_PHASE | {"epochs": 2}}},
            ["phases.one: unknown key 'epochs'", "allowed: solve, image_size, flip, strength, class_weights"],
        ),
        ({"phases": {"one": {"solve": "ridge"}}}, ["phases.one.image_size: is missing"]),
        ({"phases": {"one": SOLVED_PHASE | {"solve": "rigde"}}}, ["phases.one.solve: 'rigde'", "'ridge'"]),
        (
            {"phases": {"one": SOLVED_PHASE | {"strength": -1}}},
            ["phases.one.strength: -1", "greater than or equal to"],
        ),
        (
            {"phases": {"one": SOLVED_PHASE | {"strength": "fast"}}},
            ["phases.one.strength: 'fast'", "valid number or auto"],
        ),
        (
            {"phases": {"one": SOLVED_PHASE | {"class_weights": "equal"}}},
            ["phases.one.class_weights: 'equal'", "'balanced'"],
        ),
    ],
    ids=str,
)
def test_errors_name_key_value_and_fix(tmp_path, changes, parts):
    message = error_message(write_params(tmp_path, **changes))
    assert all(part in message for part in parts), message
    assert message.startswith("params.yaml: ")
    assert "\n" not in message


OLD_KEYS = {
    "colour_probability": "augment__",
    "lr_decay": "phases__all__",
    "lr_factors": "phases__all__",
    "normalisation": "",
    "part": "phases__all__",
    "side_pixels": "phases__all__",
    "tilt": "augment__",
    "up_ratio": "phases__all__schedule__",
    "start_ratio": "phases__all__schedule__",
    "end_ratio": "phases__all__schedule__",
}
"""Keys of earlier versions and the section that they were in."""


@pytest.mark.parametrize("key", [*base.RENAMED_KEYS, *base.REPLACED_KEYS])
def test_the_error_for_an_old_key_gives_the_new_one(tmp_path, key):
    message = error_message(write_params(tmp_path, **{OLD_KEYS[key] + key: 0.5}))
    new = f"is now called '{base.RENAMED_KEYS[key]}'" if key in base.RENAMED_KEYS else base.REPLACED_KEYS[key]
    assert message.splitlines()[0].startswith("params.yaml: ")
    assert f"unknown key '{key}' (value 0.5)" in message and new in message


@pytest.mark.parametrize(
    ("trainable", "norm_statistics", "freezes"),
    [("head", None, True), ("all", None, False), ("head", "update", False), ("all", "frozen", True)],
)
def test_norm_statistics_are_frozen_by_default_where_only_the_head_trains(
    trainable, norm_statistics, freezes
):
    phase = Phase(**MINIMAL_PHASE | {"trainable": trainable, "norm_statistics": norm_statistics})
    assert phase.freezes_norm_statistics is freezes


@pytest.mark.parametrize(("processes", "key"), [(1, None), (2, None), (3, "batch_size"), (8, "phases.all")])
def test_batch_sizes_must_be_divisible_among_the_processes(tmp_path, processes, key):
    config = params.load_params(write_params(tmp_path, batch_size=16, phases__all__batch_size=8))
    if key is None:
        config.require_divisible_batches(processes)
    else:
        with pytest.raises(UserError, match=f"params.yaml: {key}.*{processes} devices"):
            config.require_divisible_batches(processes)


def limits(schema: Any, key: str = "") -> Iterator[tuple[str, bool, bool]]:
    """Path of each number in a JSON schema, and whether it has a lower and an upper limit."""
    if isinstance(schema, list):
        for each in schema:
            yield from limits(each, key)
    elif isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            lower, upper = ({f"{side}imum", f"exclusive{side.capitalize()}imum"} for side in ("min", "max"))
            yield key, bool(lower & schema.keys()), bool(upper & schema.keys())
        for name, each in schema.items():
            yield from limits(each, f"{key}.{name}")


def test_every_number_has_a_lower_and_an_upper_limit():
    found = list(limits(params.Params.model_json_schema()))
    assert len(found) > 40
    assert not [key for key, lower, upper in found if not (lower and upper)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("null", "null"), ("true", "bool"), ("1", "int"), ("1.5", "float"), ("2026-01-01", "date")],
)
def test_a_phase_whose_name_yaml_reads_as_something_else_must_be_quoted(tmp_path, name, kind):
    file = write_params(tmp_path)
    file.write_text(file.read_text().replace("\n  all:", f"\n  {name}:"))
    assert f"YAML reads it as {kind}: put the name in quotes" in error_message(file)
    file.write_text(file.read_text().replace(f"\n  {name}:", f"\n  '{name}':"))
    assert list(params.load_params(file).phases) == [name]


@pytest.mark.parametrize("value", ["9" * 5000, "0x" + "f" * 5000, "!!bool x", "!!int ''", "2026-13-45", "["])
def test_a_value_that_yaml_or_python_cannot_read_is_one_short_message(tmp_path, value):
    file = write_params(tmp_path)
    file.write_text(re.sub("^batch_size: .*", f"batch_size: {value}", file.read_text(), flags=re.M))
    assert len(error_message(file)) < 700


def test_all_errors_are_listed_at_once(tmp_path):
    assert len(error_message(write_params(tmp_path, lr=-1.0, seed=-1, batch_size=0)).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "part"),
    [("- a\n- b\n", "must be a mapping"), ("a: [1\n", "not readable as YAML"), ("", "must be a mapping")],
)
def test_files_that_are_no_mapping_are_rejected(tmp_path, text, part):
    file = tmp_path / "params.yaml"
    file.write_text(text)
    assert part in error_message(file)


def test_the_error_for_a_missing_file_points_to_recipes(tmp_path):
    assert "recipes/" in error_message(tmp_path / "params.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    file = write_params(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert params.load_params(file) == params.load_params(ROOT / "params.yaml")


def test_an_integer_is_accepted_as_a_number(tmp_path):
    assert params.load_params(write_params(tmp_path, lr=1)).lr == 1.0


@pytest.mark.parametrize(
    ("image_size", "epochs", "expected"),
    [
        (224, 3, [224, 224, 224]),
        ([64, 128], 5, [64, 64, 96, 128, 128]),
        ([224, 448], 4, [224, 288, 384, 448]),
        ([100, 130], 4, [100, 100, 128, 130]),
        ([48, 64], 3, [48, 64, 64]),
        ([64, 96], 1, [96]),
    ],
)
def test_images_grow_from_epoch_to_epoch(tmp_path, image_size, epochs, expected):
    file = write_params(tmp_path, phases__all__image_size=image_size, phases__all__epochs=epochs)
    phase = params.load_params(file).phases["all"]
    assert [phase.image_size_at(epoch) for epoch in range(epochs)] == expected


def test_a_recipe_that_only_solves_needs_no_batches_to_divide_and_no_padding_to_fit(tmp_path):
    changes = {"phases": {"one": SOLVED_PHASE, "two": SOLVED_PHASE | {"strength": 2}}, "head": {}}
    file = write_params(tmp_path, **changes, devices=8, batch_size=16, augment__pad_crop_pixels=40)
    config = params.load_params(file)
    assert not config.trained_phases and [phase.strength for phase in config.phases.values()] == ["auto", 2]
    assert all(phase.head is None and phase.epochs == 1 for phase in config.phases.values())


def test_stages_are_pooled_in_the_network_s_order(tmp_path):
    head = {"pool": "covariance", "stage": ["layer3", "layer1"], "channels": None}
    assert params.load_params(write_params(tmp_path, head=head)).head.stages == ["layer1", "layer3"]


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ("timm/resnet18.a1_in1k", ["'timm/resnet18.a1_in1k': the revision is required", "commits/main"]),
        ("timm/resnet18.a1_in1k@main", ["as timm/resnet18.a1_in1k@ and the 40 digits", "reproducible"]),
        ({"resnet50": "a/b@v1"}, ["weights.resnet50: 'a/b@v1': the revision is required"]),
        ("a\0.pth", ["weights: 'a\\x00.pth'", "no file can"]),
        ("a" * 300 + ".pth", ["weights: 'aaa", "no file can"]),
        ("default", ["weights: 'default'", "did you mean 'DEFAULT'?"]),
        ("imagenet1k_v1", ["did you mean 'IMAGENET1K_V1'?"]),
        ({"resnet50": "DEFAULT"}, ["weights.resnet18: is missing"]),
        ({"resnet18": "none", "resnet81": "none"}, ["weights.resnet81: 'resnet81'", "mean 'resnet18'"]),
        ({}, ["weights.resnet18: is missing"]),
        ("", ["weights: ''", "at least 1"]),
        (["none"], ["weights: ['none']", "string"]),
    ],
)  # fmt: skip
def test_wrong_weights_are_named(tmp_path, weights, parts):
    message = error_message(write_params(tmp_path, models=["resnet18"], weights=weights))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("before", "override", "of_resnet18"),
    [
        ({"resnet18": "../v1", "resnet50": "none"}, "weights=DEFAULT", "DEFAULT"),
        ({"resnet18": "../v1", "resnet50": "none"}, "weights.resnet18=../v2", "../v2"),
        ("none", "weights={resnet18: ../v1, resnet50: none}", "../v1"),
        ("none", f"weights=timm/resnet18.a1_in1k@{'c' * 40}", f"timm/resnet18.a1_in1k@{'c' * 40}"),
    ],
)
def test_dvc_s_overrides_reach_the_weights(tmp_path, before, override, of_resnet18):
    file = write_params(tmp_path, models=["resnet18", "resnet50"], weights=before)
    apply_overrides(str(file), [override])  # what `dvc exp run -S` does
    assert params.load_params(file).weights_of("resnet18") == of_resnet18
