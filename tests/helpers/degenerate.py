"""Tiny or uniform data sets, extreme parameters, and a run of all stages on them in this process."""

import contextlib
import functools
import importlib
import io
import json
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import drawn
import narrow_resnet
import numpy as np
import pytest
import yaml
from hypothesis import strategies as st
from matplotlib.figure import Figure
from params_file import PHASE, SOLVED_PHASE
from PIL import Image
from pipeline import ROOT

from finegrain.core.errors import UserError
from finegrain.evaluation import metrics, plot_style

MODEL = "resnet18"
COVARIANCE = {"pool": "covariance", "stage": ["layer1", "layer3"]}
TINY: dict[str, Any] = {
    "dataset": {"name": "tiny", "source": "archive", "path": "photos.zip"},
    "split": {"val_ratio": 0.2, "test_ratio": 0.2},
    "pack": {"image_size": 32},
    "models": [MODEL],
    "phases": {"all": PHASE},
    "batch_size": 4,
    "device": "cpu",
}
"""Changes of the project's params.yaml that make a run of a second."""

ODD_NAMES = [
    "null", "true", "1", "1e5", "nan", "None", "-", "", "a b", "../up", "a/b", "é", ".hidden", "x" * 64,
    "x" * 300, None, True, 1, 1.5, "index.html", "leaderboard.json",
]  # fmt: skip
HUGE = [10**20, 2**63, 10**400, -1, 0, math.inf, math.nan, 1e300]
EXTREMES: dict[str, list[Any]] = {
    "batch_size": [2, 3, 5, 65_536, 1, *HUGE],
    "label_smoothing": [0.0, 0.999, 1.0, -0.0, *HUGE],
    "class_weights": ["balanced", "effective", "equal"],
    "choose_by": ["mean_class_accuracy", "macro_f1", "loss", "top5"],
    "ema_decay": [None, 0.0, 0.999, 1 - 1e-16, 1.0, *HUGE],
    "lr": [1e-30, 1e3, 1e6, 1e30, "auto", -0.0, 5e-324, *HUGE],
    "weights": ["x" * 300 + ".pth", "x\0.pth", "", "IMAGENET1K_V9"],
    "refit": [True],
    "normalization": [
        "imagenet", "train", {"mean": [0.0, 1.0, 0.5], "std": [0.001, 1.0, 0.5]},
        {"mean": [0] * 3, "std": [0] * 3},
        {"mean": [math.nan] * 3, "std": [1e-300] * 3},
    ],
    "seed": [2**31 - 1, 2**64, *HUGE],
    "seeds": [[0, 1], [2**31 - 1], [0, 0], [], [-1], [2**64], [0, 1, 2]],
    "models": [[], [MODEL] * 2],
    "precision": ["bf16", "fp32", "fp16"],
    "checkpoint_seconds": [0, 1e6, *HUGE],
    "split.val_ratio": [1e-9, 0.01, 0.5, 0.98, 1 - 1e-9, 1e-300, 5e-324, *HUGE],
    "split.test_ratio": [1e-9, 0.5, 0.7, 0.979, 1 - 1e-12, *HUGE],
    "split.max_bad_ratio": [0.0, 0.999, 1.0, *HUGE],
    "split.near_duplicate_bits": [0, 16, 64, *HUGE],
    "pack.image_size": [33, 31, *HUGE],
    "pack.fit": ["crop", "letterbox", "stretch", None],
    "evaluate": [
        {"flip": True, "image_size": 33}, {"flip": False, "image_size": 32}, {"flip": True, "image_size": 1},
        {"flip": True, "image_size": 10**20},
    ],
    "lr_range_test": [
        {"start": start, "end": end, "steps": steps, "suggestion": suggestion}
        for start, end, steps, suggestion in [
            (1e-30, 1e6, 10, "valley"), (1e-6, 10.0, 10, "steepest"), (1e-300, 1e300, 10, "valley"),
            (0.1, 0.1, 10, "valley"), (1e-3, 1e-2, 1, "valley"), (1e-3, 1e-2, 10**20, "valley"),
        ]
    ],
    "head": [
        {"widths": [1]}, {"widths": [4], "dropouts": [0.99, 1 - 1e-16]}, {"dropouts": [1.0]}, {"widths": [0]},
        {"widths": [8], "batch_norm": True}, {"widths": [8192] * 9}, {"widths": [10**20]},
        {"pool": "avg+max"}, COVARIANCE, {"pool": "covariance"},
        {"pool": "covariance", "stage": "layer2", "channels": 4096},
        {"pool": "covariance", "stage": "layer2", "channels": 1}, {"pool": "covariance", "channels": 10**20},
        {"widths": []}, {"activation": "none", "widths": [3, 2]},
    ],
    "augment.crop_scale": [[0.01, 0.01], [1.0, 1.0], [1e-300, 1.0], [0.0, 1.0], [math.nan, 1.0], [0.9, 0.1]],
    "augment.crop_ratio": [[0.1, 0.1], [10.0, 10.0], [1e-300, 1e300], [2.0, 1.0], [0.0, 1.0]],
    "augment.policy": ["trivial_augment_wide", "randaugment", "autoaugment"],
    "augment.pad_crop_pixels": [1, 31, 64, *HUGE],
    "augment.rotate_degrees": [180.0, 1e-9, *HUGE],
    "augment.zoom": [8.0, 1 + 1e-9, *HUGE],
    "augment.perspective": [0.5, 1e-9, *HUGE],
    "augment.brightness": [0.999, 1.0, *HUGE],
    "augment.contrast": [0.999, *HUGE],
    "augment.saturation": [0.999, *HUGE],
    "augment.hue": [0.5, *HUGE],
    "augment.erase_probability": [1.0, *HUGE],
    "augment.mixup_alpha": [0.01, 100.0, 1e-9, 1e9, *HUGE],
    "augment.cutmix_alpha": [0.01, 100.0, 1e-9, 1e9, *HUGE],
}  # fmt: skip
"""Values of each parameter at its limits and beyond."""
EXTREMES |= {
    f"dataset.{key}": values for key, values in {"name": ODD_NAMES, "path": ["x" * 300, "\0"]}.items()
}
EXTREMES["phases"] = [
    *({name: phase} for name in ODD_NAMES for phase in (PHASE,)),
    *(
        {"one": {**PHASE, **changes}}
        for changes in (
            {"epochs": 0}, {"epochs": 10**20}, {"image_size": 33}, {"image_size": [32, 64], "epochs": 2},
            {"image_size": 31}, {"trainable": "head"},
            {"trainable": "head+norm", "norm_statistics": "update"},
            {"batch_size": 2}, {"batch_size": 10**20}, {"optimizer": {"kind": "adamw", "weight_decay": 10.0}},
            {"optimizer": {"kind": "adamw", "betas": [0.0, 0.0], "eps": 1e-12}},
            {"optimizer": {"kind": "adamw", "eps": 1e-300}},
            {"optimizer": {"kind": "sgd", "weight_decay": 1e300}},
            {"optimizer": {"kind": "sgd", "momentum": 1 - 1e-16, "nesterov": True}},
            {"schedule": {"kind": "step", "every_epochs": 10_000, "factor": 1e-300}},
            {"schedule": {"kind": "step", "every_epochs": 10**20, "factor": 0.5}},
            {"schedule": {"kind": "cosine", "warmup_epochs": 0.999999}},
            {"schedule": {"kind": "cosine", "warmup_epochs": 1e300}},
            {"schedule": {"kind": "one_cycle", "pct_start": 1e-300}},
            {"schedule": {"kind": "one_cycle", "pct_start": 1 - 1e-16, "final_div_factor": 1e12}},
            {"schedule": {"kind": "one_cycle", "div_factor": 1e308, "final_div_factor": 1e308}},
            {"schedule": {"kind": "one_cycle", "momentum_range": [0.0, 0.0]}},
            {"lr": 1e6, "epochs": 2},
            {"lr": 1e6, "schedule": {"kind": "step", "every_epochs": 1, "factor": 0.1}},
            {"layer_lr_multipliers": [1e-12, 1e12, 1.0]}, {"layer_lr_multipliers": [1e300] * 3},
            {"layer_decay": 0.01}, {"layer_decay": 1e-300}, {"lr_range_test": True}, {"lr": "auto"},
            {"clip_norm": 1e-12}, {"clip_norm": 1e300}, {"patience_epochs": 1, "epochs": 3},
            {"patience_epochs": 10**20},
        )
    ),
    *(
        {"one": {**SOLVED_PHASE, **changes}}
        for changes in (
            {}, {"flip": True}, {"strength": 1e-12}, {"strength": 1e12}, {"strength": 0}, {"strength": 1e300},
            {"strength": 5e-324}, {"class_weights": "balanced"}, {"image_size": 64}, {"image_size": 10**20},
        )
    ),
    {"one": PHASE, "two": SOLVED_PHASE},
    {"one": {**PHASE, "head": {"widths": [2]}}, "two": {**SOLVED_PHASE, "class_weights": "balanced"}},
    {"one": {**PHASE, "head": {"pool": "covariance"}}, "two": PHASE},
    {"one": SOLVED_PHASE, "two": PHASE, "null": SOLVED_PHASE},
    {},
]  # fmt: skip

KINDS = ("pattern", "noise", "black", "color", "red", "same", "one pixel", "line", "gray")
"""Kinds of images: of one color, with variation in one channel only, the same pixels in every file, ..."""


def image(kind: str, number: int) -> bytes:
    """An image file; the bytes differ from number to number, but maybe not the pixels."""
    rng = np.random.default_rng(number)
    size = 8 + number % 8
    pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    if kind == "pattern":
        return drawn.png(number, 16, 12)
    if kind == "black":
        pixels = np.zeros((8 + number % 90, 8 + number // 90, 3), np.uint8)
    elif kind in ("color", "one pixel", "line"):
        shape = {"color": (8, 8), "one pixel": (1, 1), "line": (1, 32)}[kind]
        pixels = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (*shape, 3))
    elif kind == "red":
        pixels[..., 1:] = 7
    elif kind == "gray":
        pixels[...] = pixels[..., :1]
    elif kind == "same":
        return drawn.encode(Image.new("RGB", (8, 8), "teal")) + number.to_bytes(4, "big")
    return drawn.encode(Image.fromarray(pixels))


@st.composite
def photos(draw: st.DrawFn) -> dict[str, bytes]:
    """A small archive's files by path, with or without the archive's own splits."""
    names = [f"class {i}" for i in range(draw(st.sampled_from([2, 3, 2, 3, 2, 1, 6, 40])))]
    if draw(st.integers(0, 9)) == 0:
        names[0] = draw(st.sampled_from(["c" * 250, "null", "0", "nan", "TRUE", "-inf"]))
    kind, counts = draw(st.sampled_from(KINDS)), st.sampled_from([3, 4, 5, 9, 1, 2])
    mixed = draw(st.booleans())
    splits = draw(st.sampled_from([("",), ("",), ("",), ("train/", "test/"), ("train/", "val/", "test/")]))
    files: dict[str, bytes] = {}
    for split in splits:
        same = draw(st.booleans()) and draw(counts)
        for name in names:
            count = same or draw(counts)
            if split not in ("", "train/"):
                count = draw(st.sampled_from([0, 1, 2]))
            for i in range(count):
                each = KINDS[(len(files) * 7) % len(KINDS)] if mixed else kind
                files[f"{split}{name}/{i}.png"] = image(each, len(files))
    return files


@st.composite
def changes(draw: st.DrawFn, most: int = 3) -> dict[str, Any]:
    """Some parameters of ``EXTREMES`` by their dotted key."""
    keys = draw(st.lists(st.sampled_from(sorted(EXTREMES)), max_size=most, unique=True))
    return {key: draw(st.sampled_from(EXTREMES[key])) for key in keys}


def write_params(folder: Path, changes: Mapping[str, Any]) -> None:
    """Write params.yaml: the project's with ``TINY`` and these changes, by dotted key."""
    data = yaml.safe_load((ROOT / "params.yaml").read_text())
    data |= json.loads(json.dumps(TINY))
    for name, value in changes.items():
        *parents, key = name.split(".")
        section = data
        for parent in parents:
            section = section[parent]
        section[key] = value
    text = yaml.dump(data, Dumper=_WithoutAliases, sort_keys=False, allow_unicode=True)
    (folder / "params.yaml").write_text(text, encoding="utf-8")


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


@contextlib.contextmanager
def project() -> Iterator[Path]:
    """An empty folder that is the current one; stages are quick in it: a narrow network, coarse plots."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.chdir(name)
        narrow_resnet.use_instead_of(patch, MODEL)
        patch.setattr(metrics, "bootstrap", functools.partial(metrics.bootstrap, draws=10))
        real = plot_style.render_png

        def coarse(figure: Figure) -> bytes:
            figure.set_dpi(16)
            return real(figure)

        patch.setattr(plot_style, "render_png", coarse)
        yield Path(name)


def run_stages(folder: Path) -> str | None:
    """Run every stage in order; the text of the UserError that stopped them, None if none did."""
    from finegrain.config import params

    stages = {
        name: importlib.import_module(name) for name in ("download", "split", "pack", "train", "evaluate")
    }
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("error", RuntimeWarning)
        try:
            config = params.load_params()
            for name in ("download", "split", "pack"):
                stages[name].main([])
            for seed in config.seeds:
                for name in ("train", "evaluate"):
                    stages[name].main(["--model", MODEL, "--seed", str(seed)])
            for name in ("compare", "winner"):
                importlib.import_module(name).main([])
        except UserError as error:
            return str(error)
    return None
