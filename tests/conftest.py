"""Fixtures shared by the tests: a project folder of its own for each test, and a tiny packed dataset."""

import fcntl
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # each core has a worker already; before anything imports torch
    os.environ.setdefault("OMP_NUM_THREADS", "1")
import hypothesis
import numpy as np
import pytest
import stub_stages
from clone import Clone

# the same cases in every run of the suite; HYPOTHESIS_PROFILE=long looks for new ones
hypothesis.settings.register_profile(
    "suite", derandomize=True, max_examples=100, deadline=None, database=None
)
hypothesis.settings.register_profile("long", max_examples=5000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

CLASSES = ["bars", "dots", "plain"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests are slow too. Files with slow tests run first, so that no worker begins one last."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Clone]) -> Clone:
    """A clone that the first process of pytest-xdist to need it makes for all."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    made = shared / f"{name}.pickle"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_file():
            made.write_bytes(pickle.dumps(make(shared / name / "clone")))
    return pickle.loads(made.read_bytes())


@pytest.fixture(scope="session")
def ran(tmp_path_factory) -> Clone:
    """A clone in which ``dvc repro`` has trained and its results are committed; to be copied, not changed."""

    def make(folder: Path) -> Clone:
        made = Clone.tiny(folder)
        made("dvc repro")
        made.commit("run")
        return made

    return made_once(tmp_path_factory, "ran", make)


@pytest.fixture(scope="session")
def stubbed(tmp_path_factory) -> Clone:
    """As ``ran``, in seconds: its stages are the stubs of helpers/stub_stage.py."""
    return made_once(tmp_path_factory, "stubbed", stub_stages.stub_clone)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty folder that is the current one: every path of the package is relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny_pack(project) -> Path:
    """A pack of three classes of 32-px patterns that a small network tells apart within a few epochs."""
    folder = project / "data" / "tiny" / "pack"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    counts = {"train": 42, "val": 15, "test": 18}
    for split, n in counts.items():
        labels = np.arange(n) % len(CLASSES)
        images = rng.integers(0, 80, (n, 32, 32, 3), dtype=np.uint8)
        images[labels == 0, :, ::4] += 120
        images[labels == 1, ::8, ::8] += 170
        np.save(folder / f"{split}.npy", images)
        np.save(folder / f"{split}_labels.npy", labels.astype(np.int64))
    metadata = {
        "image_size": 32,
        "classes": CLASSES,
        "counts": counts,
        "manifest_sha256": "0" * 64,
        "mean": [0.2, 0.2, 0.2],
        "std": [0.15, 0.15, 0.15],
    }
    (folder / "pack.json").write_text(json.dumps(metadata))
    return folder
