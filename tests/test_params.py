"""params.yaml is a closed, typed record: what it holds, and how the file is read."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torchvision
from dvc.utils.hydra import apply_overrides
from params_file import PHASE, SOLVED_PHASE, error_message, write_params
from pipeline import ROOT

from finegrain.config import params
from finegrain.config.phases import Phase
from finegrain.core.errors import UserError


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
    ("trainable", "norm_statistics", "freezes"),
    [("head", None, True), ("all", None, False), ("head", "update", False), ("all", "frozen", True)],
)
def test_norm_statistics_are_frozen_by_default_where_only_the_head_trains(
    trainable, norm_statistics, freezes
):
    phase = Phase(**PHASE | {"trainable": trainable, "norm_statistics": norm_statistics})
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


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- a\n- b\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("a: [1\n", "params.yaml line 2: "),
        ("a: 1\nb 2\nc: 3\n", "params.yaml line 2: expected `key: value`"),
        ("a:\n  b: 1\n\tc: 2\n", "params.yaml line 3: begins with a tab; indent with spaces"),
        ("a:\n   b: 1\n  c: 2\n", "params.yaml line 3: indented differently"),
        ("a: 1\nb: {c: 1,\n c: 2}\n", "params.yaml line 3: b.c: is in line 2 already"),
        ("a 1\nb: 2\n", "params.yaml line 2: unexpected ':'"),
        ("a: 1\nb: yes\n", "params.yaml line 2: b: yes: "),
    ],
)
def test_a_mistake_in_the_yaml_is_named_with_its_line(tmp_path, text, part):
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
