"""Each error about params.yaml names the key, the value, what is allowed and the fix."""

import pytest
from params_file import PHASE, SOLVED_PHASE, error_message, write_params

from finegrain.config import base


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"batchsize": 4},
            ["unknown key 'batchsize'", "value 4", "did you mean 'batch_size'?", "allowed: dataset"],
        ),
        ({"phases__all__epoch": 4}, ["phases.all: unknown key 'epoch'", "did you mean 'epochs'?"]),
        ({"lr": None}, ["params.yaml: lr: is missing"]),
        ({"lr": -1.0}, ["lr: -1.0: must be at least 1e-30"]),
        ({"lr": float("nan")}, ["lr: nan: must be a finite number"]),
        ({"lr": "0.001"}, ["lr: '0.001'", "in quotes it is text: write 0.001"]),
        ({"lr": "fast"}, ["lr: 'fast': must be a number or auto"]),
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
        ({"phases": {"a/b": PHASE}}, ["phases.a/b: 'a/b'", "letters, digits"]),
        ({"head__dropouts": [0.5]} | {"head__widths": [8]}, ["head", "for each of the 2 linear layers"]),
        ({"head__pool": "max"}, ["head.pool: 'max'", "'avg'"]),
        ({"normalization": "cifar"}, ["normalization: 'cifar'", "'imagenet'"]),
        ({"normalization": {"mean": [0.5, 0.5, 0.5]}}, ["normalization.std: is missing"]),
        ({"lr_range_test__start": 20.0}, ["lr_range_test", "start must be below end"]),
        ({"ema_decay": 1.0}, ["ema_decay: 1.0", "less than 1"]),
        ({"augment__zoom": 0.5}, ["augment.zoom: 0.5: must be at least 1"]),
        ({"evaluate__flips": True}, ["evaluate: unknown key 'flips'", "did you mean 'flip'?"]),
        (
            {"augment__pad_crop_pixels": 40, "phases__all__image_size": 32},
            ["augment.pad_crop_pixels: 40", "32"],
        ),
        ({"batch_size": 10**20}, ["batch_size: 100000000000000000000: must be at most 65536"]),
        ({"lr": 1e30}, ["lr: 1e+30: must be at most 1000000"]),
        ({"augment__mixup_alpha": 1e-9}, ["augment.mixup_alpha: 1e-09", "0 (off) or at least 0.01"]),
        ({"normalization": {"mean": [0, 0, 0], "std": [0.0, 1, 1]}}, ["normalization.std.0: 0.0", "0.001"]),
        ({"dataset__name": "x" * 300}, ["dataset.name: 'xxx", "...", "at most 64"]),
        ({"phases": {"x" * 300: PHASE}}, ["at most 64"]),
        ({"batch_size": 1}, ["batch_size: 1: must be at least 2"]),
        ({"phases__all__batch_size": 1}, ["phases.all.batch_size: 1: must be at least 2"]),
        ({"refit": None}, ["refit: is missing"]),
        ({"phases__all__epochs": 0}, ["phases.all.epochs: 0: must be at least 1"]),
        ({"phases__all__epochs": 2.5}, ["phases.all.epochs: 2.5: must be a whole number"]),
        ({"phases__all__schedule__kind": "cosin"}, ["phases.all.schedule.kind: 'cosin'", "'cosine'"]),
        ({"lr": "0,002"}, ["lr: '0,002'", "write 0.002"]),
        ({"split__val_ratio": "15%"}, ["split.val_ratio: '15%'", "write 0.15"]),
        ({"split__val_ratio": 1.2}, ["split.val_ratio: 1.2: must be less than 1"]),
        ({"learning_rate": 0.1}, ["unknown key 'learning_rate' (value 0.1): did you mean 'lr'?"]),
        ({"epochs": 3}, ["unknown key 'epochs' (value 3)", "phases.NAME.epochs"]),
        (
            {"phases": {"one": SOLVED_PHASE | {"epochs": 3}}},
            ["phases.one: unknown key 'epochs'", "with solve"],
        ),
        ({"phases": [SOLVED_PHASE]}, ["phases: a list: must be a mapping"]),
        ({"phases__all__optimizer": "sgd"}, ["phases.all.optimizer: 'sgd': must be a mapping"]),
        ({"phases__all__image_size": [64]}, ["phases.all.image_size: value 2 of the list is missing"]),
        ({"augment__crop_scale": 0.5}, ["augment.crop_scale: 0.5: must be a list"]),
        ({"device": "gpu"}, ["device: 'gpu'", "did you mean 'cuda'?"]),
        ({"precision": "float16"}, ["precision: 'float16'", "did you mean 'fp16'?"]),
        ({"choose_by": "accuracy"}, ["choose_by: 'accuracy'", "did you mean 'top1'?"]),
        ({"refit": "true"}, ["refit: 'true': must be true or false"]),
        ({"weights": False}, ["weights: false", "none means random weights"]),
        ({"devices": 2, "batch_size": 15}, ["batch_size: 15", "multiple of 2 devices"]),
        ({"phases": {}}, ["phases: must not be empty"]),
        ({"models": []}, ["models: []: must not be empty"]),
        ({"models": "resnet18"}, ["models: 'resnet18': must be a list; write [resnet18]"]),
        ({"models": ["resnet81"]}, ["models.0: 'resnet81'", "did you mean 'resnet18'?"]),
        ({"models": ["resnet18", "resnet18"]}, ["models: resnet18 is listed twice"]),
        ({"seeds": [1, 0, 1]}, ["seeds: 1 is listed twice"]),
        ({"seeds": []}, ["seeds: []: must not be empty"]),
        ({"dataset__source": "kagle"}, ["dataset.source: 'kagle'", "did you mean 'kaggle'?"]),
        ({"dataset__source": None}, ["dataset.source: is missing"]),
        (
            {"dataset": {"name": "a", "source": "kaggle", "slug": "owner/data"}},
            ["dataset.slug: 'owner/data'", "owner/dataset/version"],
        ),
        ({"dataset__name": "../up"}, ["dataset.name: '../up'", "letters, digits"]),
        ({"dataset": {"name": "a", "source": "cifar100"}}, ["dataset", "either slug (Kaggle) or path"]),
        ({"split__val_ratio": 0.9}, ["val_ratio + test_ratio must be at most 0.99"]),
        ({"augment__crop_scale": [0.9, 0.1]}, ["crop_scale", "must not be above the second"]),
        ({"augment__flip": "yes"}, ["augment.flip: 'yes': must be true or false"]),
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
        ({"head": {"pool": "covariance", "stage": []}}, ["head.stage: []: must not be empty"]),
        (
            {"head": {"pool": "covariance", "channels": 0}},
            ["head.channels: 0: must be at least 1"],
        ),
        (
            {"phases": {"one": SOLVED_PHASE | {"epochs": 2}}},
            ["phases.one: unknown key 'epochs'", "allowed: solve, image_size, flip, strength, class_weights"],
        ),
        ({"phases": {"one": {"solve": "ridge"}}}, ["phases.one.image_size: is missing"]),
        ({"phases": {"one": SOLVED_PHASE | {"solve": "rigde"}}}, ["phases.one.solve: 'rigde'", "'ridge'"]),
        (
            {"phases": {"one": SOLVED_PHASE | {"strength": -1}}},
            ["phases.one.strength: -1: must be at least 1e-12"],
        ),
        (
            {"phases": {"one": SOLVED_PHASE | {"strength": "fast"}}},
            ["phases.one.strength: 'fast': must be a number or auto"],
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


def test_all_errors_are_listed_at_once(tmp_path):
    assert len(error_message(write_params(tmp_path, lr=-1.0, seed=-1, batch_size=0)).splitlines()) == 3


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ("timm/resnet18.a1_in1k", ["'timm/resnet18.a1_in1k': the revision is required", "commits/main"]),
        ("timm/resnet18.a1_in1k@main", ["as timm/resnet18.a1_in1k@ and the 40 digits", "reproducible"]),
        ({"resnet50": "a/b@v1"}, ["weights.resnet50: 'a/b@v1': the revision is required"]),
        ("a\0.pth", ["weights: 'a\\x00.pth'", "no file can"]),
        ("a" * 300 + ".pth", ["weights: 'aaa", "no file can"]),
        ("default", ["weights: 'default'", "did you mean 'DEFAULT'?"]),
        ("imagenet", ["did you mean 'IMAGENET1K_V1'?"]),
        ("imagenet1k_v1", ["did you mean 'IMAGENET1K_V1'?"]),
        ({"resnet50": "DEFAULT"}, ["weights.resnet18: is missing"]),
        ({"resnet18": "none", "resnet81": "none"}, ["weights.resnet81: 'resnet81'", "mean 'resnet18'"]),
        ({}, ["weights.resnet18: is missing"]),
        ("", ["weights: '': must not be empty"]),
        (["none"], ["weights: ['none']: must be text"]),
    ],
)  # fmt: skip
def test_wrong_weights_are_named(tmp_path, weights, parts):
    message = error_message(write_params(tmp_path, models=["resnet18"], weights=weights))
    assert all(part in message for part in parts), message
