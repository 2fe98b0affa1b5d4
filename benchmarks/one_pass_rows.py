"""The rows of one_pass.py: what each of them changes in recipes/one-pass.yaml, or in the recipe it names."""

from typing import Any

TUNE = {
    "trainable": "all",
    "epochs": 5,
    "image_size": 128,
    "optimizer": {"kind": "adamw", "betas": [0.9, 0.99], "weight_decay": 0.05, "decay_norm_and_bias": False},
    "schedule": {"kind": "one_cycle", "pct_start": 0.3, "momentum_range": [0.85, 0.95]},
    "layer_decay": 0.8,
}
"""The phase of recipes/photos.yaml, at the size and length for a CPU."""
COVARIANCES = {
    "head": {"pool": "covariance", "stage": "layer3", "channels": 32},
    "lr": 0.01,
    "layer_decay": None,
    "layer_lr_multipliers": [0.05, 0.1, 1.0],
}
"""Fine-tuning under a head on covariances of layer3, which is thrown away too; layer4 takes no part."""
COSINE = {"kind": "cosine", "warmup_epochs": 0.5}
FIVE = "5 epochs at 128 px with covariances, then 224 px, flip"
FEW = {"val_ratio": 0.02}
"""One photo of each class for validation: the other rows keep 15 % back, this one trains on them."""
STRONG = {"policy": "trivial_augment_wide", "crop_scale": [0.35, 1.0], "mixup_alpha": 0.2}
LINEAR = {"pool": "avg", "stage": "layer4", "channels": None}


def solve(image_size: int, flip: bool = False) -> dict[str, Any]:
    return {"solve": "ridge", "image_size": image_size, "flip": flip}


def tuned(solve_size: int, flip: bool, **changes: Any) -> dict[str, Any]:
    return {"tune": {**TUNE, "head": {}, **changes}, "solve": solve(solve_size, flip)}


ROWS: dict[str, dict[str, Any]] = {
    "fine-tuned, 5 epochs at 128 px": {"phases": {"all": TUNE}, "head": LINEAR},
    "linear probe (average of layer4), 224 px": {"phases": {"solve": solve(224)}, "head": LINEAR},
    "layer3, 128 px": {"phases": {"solve": solve(128)}, "head": {"stage": "layer3"}},
    "layer4, 128 px": {"phases": {"solve": solve(128)}, "head": {"stage": "layer4"}},
    "layer2 + layer3, 96 px": {"phases": {"solve": solve(96)}},
    "layer2 + layer3, 128 px": {"phases": {"solve": solve(128)}},
    "layer2 + layer3, 160 px": {"phases": {"solve": solve(160)}},
    "layer2 + layer3, 224 px": {"phases": {"solve": solve(224)}},
    "layer2 + layer3, 224 px, flip": {"phases": {"solve": solve(224, True)}},
    "layer2 + layer3, 320 px, flip": {"phases": {"solve": solve(320, True)}, "pack": {"image_size": 320}},
    "32 channels, 224 px, flip": {"phases": {"solve": solve(224, True)}, "head": {"channels": 32}},
    "8 channels, 224 px, flip": {"phases": {"solve": solve(224, True)}, "head": {"channels": 8}},
    "random weights, 128 px": {"phases": {"solve": solve(128)}, "weights": "none"},
    "5 epochs at 128 px, then 224 px, flip": {"phases": tuned(224, True)},
    "layer2 + layer3, 224 px, flip, refit": {"phases": {"solve": solve(224, True)}, "refit": True},
    "5 epochs at 128 px, then 224 px, flip, refit": {"phases": tuned(224, True), "refit": True},
    "6 epochs at 160 px, then 288 px, flip": {
        "phases": tuned(288, True, epochs=6, image_size=160),
        "pack": {"image_size": 288},
    },
    "layer2 + layer3 + layer4, 5 epochs at 128 px, then 224 px, flip": {
        "phases": tuned(224, True),
        "head": {"stage": ["layer2", "layer3", "layer4"]},
    },
    "ResNet-34 project's recipe, 256 px": {
        "recipe": "stanford-cars-freeze",
        "lr_range_test": {"steps": 10},
    },
    FIVE: {"phases": tuned(224, True, **COVARIANCES)},
    f"{FIVE}; late layers": {"phases": tuned(224, True, **COVARIANCES, trainable="late")},
    f"{FIVE}; frozen norm statistics": {"phases": tuned(224, True, **COVARIANCES, norm_statistics="frozen")},
    f"{FIVE}; cosine": {"phases": tuned(224, True, **COVARIANCES, schedule=COSINE)},
    f"{FIVE}; 96 to 160 px": {"phases": tuned(224, True, **COVARIANCES | {"image_size": [96, 160]})},
    f"{FIVE}; moving average": {"phases": tuned(224, True, **COVARIANCES), "ema_decay": 0.99},
    "5 epochs at 128 px with covariances, then 320 px, flip": {
        "phases": tuned(320, True, **COVARIANCES),
        "pack": {"image_size": 320},
    },
    "12 epochs at 192 px with covariances, then 320 px, flip": {
        "phases": tuned(320, True, epochs=12, image_size=192, **COVARIANCES),
        "pack": {"image_size": 320},
    },
    "few for validation: 5 epochs at 128 px, then 224 px, flip": {"phases": tuned(224, True), "split": FEW},
    "few for validation: 6 epochs at 160 px, then 288 px, flip": {
        "phases": tuned(288, True, epochs=6, image_size=160),
        "split": FEW,
        "pack": {"image_size": 288},
    },
    "few for validation: 12 epochs at 192 px, then 320 px, flip": {
        "phases": tuned(320, True, epochs=12, image_size=192),
        "split": FEW,
        "pack": {"image_size": 320},
    },
    "few for validation: 6 epochs at 160 px with covariances, then 288 px, flip": {
        "phases": tuned(288, True, epochs=6, image_size=160, **COVARIANCES),
        "split": FEW,
        "pack": {"image_size": 288},
    },
    "few for validation: 12 epochs at 192 px with covariances, then 320 px, flip": {
        "phases": tuned(320, True, epochs=12, image_size=192, **COVARIANCES),
        "split": FEW,
        "pack": {"image_size": 320},
    },
    "few for validation: strong augmentation, 30 epochs to 224 px with covariances, then 320 px, flip": {
        "phases": tuned(320, True, epochs=30, image_size=[128, 224], **COVARIANCES),
        "augment": STRONG,
        "split": FEW,
        "pack": {"image_size": 320},
    },
}
"""Changes to the recipe by the name of the row; sections are merged with its own, phases replace them."""
