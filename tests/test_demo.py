"""The demo's page shows what the command predicts, in a real browser, and loads nothing from elsewhere."""

import csv
import json
import shutil
import socket
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import drawn
import fork_server
import numpy as np
import pytest
import torch
from conftest import CLASSES
from params_file import write_params
from untrained import save_untrained

from finegrain import cli
from finegrain.core import file_io, paths
from finegrain.core.errors import UserError
from finegrain.dataset import decoding
from finegrain.serving import demo, predict
from finegrain.serving.predictor import Predictor

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHOTO = drawn.png(3, 90, 60)
RESNET18 = paths.Run("tiny", "resnet18", 0)
LEADERBOARD = {
    "winner": "resnet18",
    "models": {
        "resnet18": {"run": "resnet18-0", "test_top1": 0.9},
        "resnet34": {"run": "resnet34-0", "test_top1": 0.8},
    },
}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Path:
    """A project of two untrained models that predict different classes, and a pack of three test photos."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params(folder, dataset__name="tiny", models=["resnet18", "resnet34"])
        for favorite, name in enumerate(("resnet18", "resnet34")):
            run = paths.Run("tiny", name, 0)
            save_untrained(
                run.weights, run.sidecar, CLASSES, name=name, favorite=favorite, pack_image_size=32,
                temperature=1.5,
            )  # fmt: skip
        file_io.write_json(paths.LEADERBOARD, LEADERBOARD)
        pack = paths.Dataset("tiny").pack
        pack.mkdir(parents=True)
        file_io.write_json(pack / "pack.json", {"classes": CLASSES})
        for split in ("train", "test"):
            images = [np.asarray(drawn.pattern(seed, 32, 32)) for seed in range(len(CLASSES))]
            np.save(pack / f"{split}.npy", np.stack(images))
            np.save(pack / f"{split}_labels.npy", np.arange(len(CLASSES)))
    (folder / "photo.png").write_bytes(PHOTO)
    (folder / "page.jpg").write_text("<html>no photo</html>")
    return folder


@pytest.fixture(scope="module")
def predictor(served) -> Predictor:
    weights, sidecar = (served / file for file in (RESNET18.weights, RESNET18.sidecar))
    return Predictor(weights, sidecar, torch.device("cpu"), torch.float32, None, False)


def test_a_result_is_what_the_predictor_predicts(predictor):
    result = demo.classify_photo(predictor, PHOTO)
    assert list(result.top.items()) == predictor(PHOTO)
    assert result.text.startswith(f"### {next(iter(result.top))}\n")
    packed = np.asarray(decoding.decode_square(PHOTO, 32))
    assert result.image is not None and result.gradcam is not None
    assert result.image.shape == result.gradcam.shape
    small = result.image.reshape(32, 8, 32, 8, 3).mean((1, 3))
    assert np.abs(small - packed).mean() < 8  # enlarged eightfold, smoothly


def test_a_photo_below_the_threshold_is_like_no_class(predictor, monkeypatch):
    monkeypatch.setattr(predictor, "unknown_below", 0.9999)
    assert "### Unknown\n" in demo.classify_photo(predictor, PHOTO).text


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty file"), (b"<html>", "a web page"), (PHOTO[:300], "truncated")]
)
def test_an_unusable_file_gets_an_explanation(predictor, data, reason):
    result = demo.classify_photo(predictor, data)
    assert "cannot be used" in result.text and reason in result.text
    assert result.top == {} and result.image is None and result.gradcam is None


def test_the_dataset_s_photos_are_of_the_requested_classes(tiny_pack):
    photos = demo.DatasetPhotos(tiny_pack)
    train, labels = np.load(tiny_pack / "train.npy"), np.load(tiny_pack / "train_labels.npy")
    near = photos.training_photos(["dots", "bars", "no class"])
    assert [name for _, name in near] == ["dots"] * 3 + ["bars"] * 3
    assert np.array_equal(near[0][0], train[labels == CLASSES.index("dots")][0])
    assert [name for _, name in photos.test_examples()] == CLASSES
    empty = demo.DatasetPhotos(tiny_pack / "absent")
    assert empty.training_photos(["dots"]) == [] == empty.test_examples()


def test_the_menu_lists_the_leaderboard_s_models(project):
    assert demo.model_choices() == {}
    file_io.write_json(paths.LEADERBOARD, LEADERBOARD)
    assert demo.model_choices() == {
        "resnet18 (90.0% test top-1)": "resnet18",
        "resnet34 (80.0% test top-1)": "resnet34",
    }


def test_a_port_in_use_is_an_error_before_the_model_is_loaded(project, monkeypatch):
    for name in ("uvicorn", "finegrain.serving.demo_page"):  # which take seconds to import
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: Address already in use"):
            demo.run(cli.build_parser().parse_args(["demo", "--port", str(port)]))


def test_the_demo_predicts_with_the_settings_of_stage_evaluate(served, monkeypatch):
    monkeypatch.chdir(served)
    params = {"dataset__name": "tiny", "models": ["resnet18", "resnet34"]}
    write_params(served, **params, evaluate__flip=True, precision="fp32")
    predictor, _ = demo.model_loader("cpu")("resnet18")
    write_params(served, **params)
    flipped, plain = (
        Predictor(RESNET18.weights, RESNET18.sidecar, torch.device("cpu"), torch.float32, None, flip)
        for flip in (True, False)
    )
    assert predictor(PHOTO) == flipped(PHOTO) != plain(PHOTO)


@pytest.fixture(scope="module")
def address(served) -> Iterator[str]:
    """The page, served by the command itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script, log = served / "command.py", served / "log"
    script.write_text("from finegrain import cli\ncli.main()")
    server = fork_server.start(script, ["demo", "--port", str(port)], served, log, {"BROWSER": "true"})
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except OSError:
                assert server.is_alive(), log.read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.join(20)


def open_page(browser: Any, address: str, width: int) -> tuple[Any, list[str]]:
    """A page of that width, and a growing list of the hosts that it sends requests to."""
    page, hosts = browser.new_page(viewport={"width": width, "height": 800}), []
    page.on("request", lambda request: hosts.append(urlsplit(request.url).hostname))
    page.goto(address)
    page.wait_for_selector("text=Drop a photo")
    return page, hosts


def upload(page: Any, file: Path, expected: str) -> str:
    page.set_input_files("input[type=file]", file)
    page.wait_for_selector(f"#result >> text={expected}")
    return str(page.inner_text("#result"))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser(served, address, monkeypatch, capsys):
    from playwright.sync_api import sync_playwright

    monkeypatch.chdir(served)
    rows = {}
    for name in ("resnet18", "resnet34"):
        words = ["predict", "photo.png", "--format", "csv", "--model", name]
        assert predict.run(cli.build_parser().parse_args(words)) == 0
        (rows[name],) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert rows["resnet18"]["class_1"] != rows["resnet34"]["class_1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page, hosts = open_page(browser, address, 1280)
        upload(page, served / "photo.png", rows["resnet18"]["class_1"])
        bars = page.inner_text("#top")
        for rank in (1, 2, 3):
            assert f"{float(rows['resnet18'][f'p_{rank}']):.0%}" in bars
            assert rows["resnet18"][f"class_{rank}"] in bars
        page.get_by_label("Model").click()
        page.get_by_role("option", name="resnet34").click()
        page.wait_for_selector(f"#result >> text={rows['resnet34']['class_1']}")

        page, more_hosts = open_page(browser, address, 390)
        upload(page, served / "page.jpg", "not an image: a web page")
        page.locator(".thumbnail-lg").first.click()
        page.wait_for_selector("#result >> text=sure")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert {*hosts, *more_hosts} <= {"127.0.0.1", None}  # None: data and blob addresses
        browser.close()


@pytest.mark.slow
def test_requests_from_other_hosts_are_rejected_and_nothing_loads_from_elsewhere(address):
    response = urllib.request.urlopen(address)
    assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}))
    config = json.loads(urllib.request.urlopen(f"{address}config").read())
    assert not config.get("analytics_enabled")
    texts = json.dumps(config["components"])
    assert "Drop a photo" in texts and "Grad-CAM: where the model looked" in texts
