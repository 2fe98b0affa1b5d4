"""Every stage script on unusual and broken files: good images are used, bad ones are reported."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import drawn
import fork_server
import numpy as np
import pandas as pd
import pytest
from clone import SMALL
from params_file import write_params
from PIL import Image
from pipeline import ROOT

ODD_NAMES = [
    "长城 哈弗 H6", "it's a \"car\"", "a, b; c", "two\nlines", "<img src=x onerror=alert(1)>", " spaces ",
    "-rf", "$(touch x)", "100%", "ＦＵＬＬ", "é́ combined",
]  # fmt: skip
TINY = {
    **SMALL,
    "models": ["resnet18"],
    "seeds": [0],
    "phases__all__epochs": 1,
    "split__val_ratio": 0.2,
    "split__test_ratio": 0.2,
    "device": "cpu",
}
TINY.pop("phases")
TINY |= {"phases__all__image_size": 32, "dataset": {"name": "odd", "source": "archive", "path": "photos"}}
TINY = {k: v for k, v in TINY.items() if not k.startswith("dataset__")}
TRAIN = ["--model", "resnet18", "--seed", "0"]
STAGES = (
    "download",
    "split",
    "pack",
    "train --model resnet18 --seed 0",
    "evaluate --model resnet18 --seed 0",
    "compare",
)


def odd_images() -> dict[str, bytes]:
    """Good images in forms that tools often fail on, by file name."""
    image = drawn.pattern(900)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # orientation: rotate by 90 degrees to display
    return {
        "cmyk.jpg": drawn.encode(image.convert("CMYK"), "JPEG"),
        "sixteen bits.png": drawn.encode(
            Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 60)
        ),
        "palette.png": drawn.encode(drawn.pattern(901).quantize(16), transparency=3),
        "gray.jpg": drawn.encode(drawn.pattern(902).convert("L"), "JPEG"),
        "gray alpha.png": drawn.encode(drawn.pattern(903).convert("LA")),
        "animated.gif": drawn.encode(image, "GIF", save_all=True, append_images=[drawn.pattern(904)]),
        "animated.webp": drawn.encode(
            drawn.pattern(905), "WEBP", save_all=True, append_images=[drawn.pattern(906)]
        ),
        "rotated.jpg": drawn.encode(drawn.pattern(907), "JPEG", exif=rotated),
        "a png.jpg": drawn.png(908),
        "one pixel.png": drawn.png(909, 1, 1),
        "a line.png": drawn.png(910, 1, 10_000),
        "a row.png": drawn.png(911, 10_000, 1),
    }


BAD_IMAGES = {
    "empty.jpg": b"",
    "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
    "cut.jpg": drawn.encode(drawn.pattern(920, 300, 200), "JPEG")[:1500],
    "noise.png": b"\x89PNG\r\n\x1a\n" + bytes(100),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder where all stages have run on odd names and images, and what each stage printed."""
    folder = tmp_path_factory.mktemp("odd project")
    photos = drawn.classes(dict.fromkeys(ODD_NAMES, 6))
    photos |= {f"{ODD_NAMES[0]}/{name}": data for name, data in (odd_images() | BAD_IMAGES).items()}
    photos |= {"Thumbs.db": b"-", "__MACOSX/._a.jpg": b"-", f"{ODD_NAMES[1]}/.hidden.jpg": b"-"}
    photos |= {"it's/phone.nef": b"-", "it's/list.txt": b"-"}
    drawn.tree(folder / "photos", photos)
    write_params(folder, **TINY, split__max_bad_ratio=0.5)
    printed = {}
    for stage in STAGES:
        name, *words = stage.split()
        done = fork_server.run(name, words, folder)
        assert done.returncode == 0, f"{stage}: {done.output}"
        printed[stage] = done.output
    return folder, printed


@pytest.mark.slow
def test_odd_images_are_used_and_bad_ones_are_listed(odd):
    folder, printed = odd
    rejected = pd.read_csv(folder / "reports/odd/rejected.csv")
    assert sorted(Path(path).name for path in rejected["path"]) == sorted(BAD_IMAGES)
    assert rejected["reason"].str.len().min() > 5
    used = pd.read_csv(folder / "data/odd/manifest.csv", keep_default_na=False)
    names = {Path(path).name for path in used["path"]}
    assert names >= set(odd_images()) and not names & {"Thumbs.db", ".hidden.jpg", "._a.jpg"}
    sizes = {Path(row.path).name: (row.width, row.height) for row in used.itertuples()}
    assert sizes["rotated.jpg"] == (32, 48) and sizes["a line.png"] == (1, 10_000)
    hidden = f"1 hidden .jpg (such as {ODD_NAMES[1]}/.hidden.jpg)"
    assert f": 1 .nef (such as it's/phone.nef), {hidden}; RAW is " in printed["download"]
    assert ": 1 .txt\n" in printed["download"]


@pytest.mark.slow
def test_odd_class_names_come_through_to_the_page(odd):
    folder, _ = odd
    expected = sorted(ODD_NAMES)
    assert json.loads((folder / "models/odd/resnet18-0.json").read_text())["classes"] == expected
    recall = pd.read_csv(folder / "plots/odd/per_class/resnet18-0.csv", keep_default_na=False)
    kept = pd.read_parquet(folder / "data/odd/predictions/resnet18-0.parquet")
    assert set(recall["class"]) == set(kept["class"]) == set(expected)
    page = (folder / "reports/index.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x" in page and ODD_NAMES[0] in page
    assert not (folder / "x").exists()


@pytest.mark.slow
def test_nothing_is_left_beside_what_the_stages_declare(odd):
    folder, _ = odd
    tops = {path.name for path in folder.iterdir()}
    assert tops <= {"photos", "params.yaml", "data", "models", "metrics", "plots", "reports", ".checkpoints"}
    assert [path.name for path in folder.rglob(".*") if path.is_relative_to(folder / "photos") is False] in (
        [],
        [".checkpoints"],
    )


def test_a_disk_that_fills_up_during_a_stage_is_one_message(tmp_path):
    write_params(tmp_path)
    done = fork_server.run("download", [], tmp_path, RLIMIT_FSIZE=5_000)
    assert done.returncode == 1 and "Traceback" not in done.output
    assert "File too large" in done.output and "`dvc repro`" in done.output
    assert not list((tmp_path / "data").rglob("*.zip"))
    assert fork_server.run("download", [], tmp_path).returncode == 0


def test_a_gpu_that_is_not_there(tmp_path, tiny_pack):
    write_params(tmp_path, device="cuda", dataset__name="tiny")
    done = fork_server.run("train", TRAIN, tmp_path, {"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1
    assert "params.yaml: device: cuda" in done.output and "no GPU" in done.output


def test_too_little_memory_names_the_batch_size(tmp_path, tiny_pack):
    """42 images of 1024 px through ResNet-18 need over 10 GB of activations; this process may use 3 GB.

    Not forked: a process that has imported core.process has reserved addresses for half of the memory.
    """
    write_params(
        tmp_path, device="cpu", dataset__name="tiny", batch_size=42, models=["resnet18"],
        phases__all__image_size=1024,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(ROOT / "src/train.py"), *TRAIN],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (3 * 2**30, 3 * 2**30)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "params.yaml: batch_size: 42 images of 1024 px do not fit this machine's memory" in done.stderr
