"""The page answers as the command does, in a real browser, and asks nobody else for anything."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import drawn
import numpy as np
import pytest
import torch
from conftest import CLASSES
from params_file import write_params
from pipeline import ROOT

from finegrain.config.training import HeadParams
from finegrain.core import file_io, paths
from finegrain.dataset import decoding
from finegrain.models import build, storage
from finegrain.serving import demo
from finegrain.serving.predictor import Predictor

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "BROWSER": "true"}
PHOTO = drawn.png(3, 90, 60)


@pytest.fixture
def served(tiny_pack, project) -> Path:
    """A project of two untrained networks that answer differently."""
    write_params(project, dataset__name="tiny", models=["resnet18", "resnet34"])
    board: dict[str, Any] = {}
    for seed, name in enumerate(("resnet18", "resnet34")):
        run = paths.Run("tiny", name, 0)
        run.weights.parent.mkdir(parents=True, exist_ok=True)
        net = build.build_model(name, len(CLASSES), "none", HeadParams(), seed)
        with torch.no_grad():
            build.get_head(net).bias.copy_(torch.eye(3)[seed] * 3)
        facts = {
            "model": name, "classes": CLASSES, "image_size": 32, "pack_image_size": 32, "mean": [0.5] * 3,
            "std": [0.2] * 3, "refit": False, "temperature": 1.5,
            "unknown_below": 0.0, "recipe": {"head": {}},
        }  # fmt: skip
        storage.save_model(run.weights, run.sidecar, net.state_dict(), facts)
        board[name] = {"run": run.name, "test_top1": 0.9 - 0.1 * seed}
    file_io.write_json(paths.REPORTS / "leaderboard.json", {"winner": "resnet18", "models": board})
    (project / "photo.png").write_bytes(PHOTO)
    (project / "page.jpg").write_text("<html>no photo</html>")
    return project


def predictor(name: str = "resnet18") -> Predictor:
    run = paths.Run("tiny", name, 0)
    return Predictor(run.weights, run.sidecar, torch.device("cpu"), False, None, False)


def test_a_reply_is_what_the_predictor_says(served):
    found = demo.answer_photo(predictor(), PHOTO)
    assert list(found.top.items()) == predictor()(PHOTO)
    assert found.text.startswith(f"### {next(iter(found.top))}\n")
    square = np.asarray(decoding.decode_square(PHOTO, 32))
    assert found.seen is not None and found.heat is not None and found.seen.shape == found.heat.shape
    small = found.seen.reshape(32, 8, 32, 8, 3).mean((1, 3))
    assert np.abs(small - square).mean() < 8  # enlarged eightfold, smoothly


def test_a_photo_below_the_threshold_is_like_no_class(served):
    unsure = predictor()
    unsure.unknown_below = 0.9999
    assert "Not like any class I know" in demo.answer_photo(unsure, PHOTO).text


@pytest.mark.parametrize(
    ("data", "why"), [(b"", "empty file"), (b"<html>", "a web page"), (PHOTO[:300], "truncated")]
)
def test_a_bad_photo_is_an_answer_too(served, data, why):
    found = demo.answer_photo(predictor(), data)
    assert "cannot be used" in found.text and why in found.text
    assert found.top == {} and found.seen is None


def test_the_shelf_holds_photos_of_the_classes(tiny_pack):
    shelf = demo.DatasetPhotos(tiny_pack)
    train, labels = np.load(tiny_pack / "train.npy"), np.load(tiny_pack / "train_labels.npy")
    near = shelf.like(["dots", "bars", "stranger"])
    assert [name for _, name in near] == ["dots"] * 3 + ["bars"] * 3
    assert np.array_equal(near[0][0], train[labels == CLASSES.index("dots")][0])
    assert [name for _, name in shelf.examples()] == CLASSES
    empty = demo.DatasetPhotos(tiny_pack / "absent")
    assert empty.like(["dots"]) == [] == empty.examples()


def test_the_picker_names_the_leaderboard_s_models(served):
    assert demo.model_choices() == {
        "resnet18 (90.0% test top-1)": "resnet18",
        "resnet34 (80.0% test top-1)": "resnet34",
    }
    shutil.rmtree(paths.REPORTS)
    assert demo.model_choices() == {}


@pytest.fixture
def address(served) -> Iterator[str]:
    """The page, served by the command itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "finegrain.cli", "demo", "--port", str(port)]
    with (served / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=served, env=ENVIRONMENT, stdout=log, stderr=log)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
                    break
                except OSError:
                    assert server.poll() is None, (served / "log").read_text()
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
            server.wait(20)


def page_of(browser: Any, address: str, width: int) -> tuple[Any, list[str]]:
    """A page at that width, and the addresses that it asks, which grow."""
    page, asked = browser.new_page(viewport={"width": width, "height": 800}), []
    page.on("request", lambda request: asked.append(urlsplit(request.url).hostname))
    page.goto(address)
    page.wait_for_selector("text=Drop a photo")
    return page, asked


def upload(page: Any, file: Path, expected: str) -> str:
    page.set_input_files("input[type=file]", file)
    page.wait_for_selector(f"#answer >> text={expected}")
    return str(page.inner_text("#answer"))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser(served, address):
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "finegrain.cli", "predict", "photo.png", "--format", "csv"]
    said = {}
    for name in ("resnet18", "resnet34"):
        told = subprocess.run(
            [*command, "--model", name], cwd=served, env=ENVIRONMENT, capture_output=True, text=True
        )
        (said[name],) = csv.DictReader(told.stdout.splitlines())
    assert said["resnet18"]["class_1"] != said["resnet34"]["class_1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page, asked = page_of(browser, address, 1280)
        upload(page, served / "photo.png", said["resnet18"]["class_1"])
        bars = page.inner_text("#top")
        for rank in (1, 2, 3):
            assert f"{float(said['resnet18'][f'p_{rank}']):.0%}" in bars
            assert said["resnet18"][f"class_{rank}"] in bars
        page.get_by_label("Model").click()
        page.get_by_role("option", name="resnet34").click()
        page.wait_for_selector(f"#answer >> text={said['resnet34']['class_1']}")

        page, more = page_of(browser, address, 390)
        upload(page, served / "page.jpg", "not an image: a web page")
        page.locator(".thumbnail-lg").first.click()
        page.wait_for_selector("#answer >> text=sure")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert {*asked, *more} <= {"127.0.0.1", None}  # None: data and blob addresses
        browser.close()


@pytest.mark.slow
def test_strangers_are_kept_out(served, address):
    answer = urllib.request.urlopen(address)
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}))
    port = urlsplit(address).port
    command = [sys.executable, "-m", "finegrain.cli", "demo", "--port", str(port)]
    second = subprocess.run(command, cwd=served, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert second.returncode == 1 and f"port {port}: Address already in use" in second.stderr
    config = json.loads(urllib.request.urlopen(f"{address}config").read())
    assert not config.get("analytics_enabled")
