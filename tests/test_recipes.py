"""Every recipe is valid, takes the overrides of DVC, and runs shrunk through the real stages."""

import importlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides
from pipeline import ROOT, STAGES, script_of

from finegrain.config import params
from recipes import PUBLISHED_TABLES, RECIPES, REFERENCES, read, shrunk


def test_all_reference_projects_and_our_own_are_there():
    own = {"stanford-cars", "sample", "photos", "laptop", "one-pass"}
    assert set(RECIPES) == REFERENCES | PUBLISHED_TABLES.keys() | own


def test_the_sample_recipe_is_the_committed_params_file():
    assert (ROOT / "recipes" / "sample.yaml").read_text() == (ROOT / "params.yaml").read_text()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_same_keys_so_that_any_of_them_can_be_set(name):
    """`dvc exp run -S augment.zoom=1.1` changes what the file holds; DVC refuses a key that it does not."""
    sample = RECIPES["sample"]
    assert RECIPES[name].keys() == sample.keys()
    for section in ("augment", "head", "lr_range_test", "evaluate", "split", "pack"):
        assert RECIPES[name][section].keys() == sample[section].keys()


@pytest.mark.parametrize(
    ("override", "holds"),
    [
        ("lr=0.003", lambda c: (c.phases["all"].lr or c.lr) == 0.003),
        ("phases.all.epochs=5", lambda c: c.phases["all"].epochs == 5),
        ("weights=none", lambda c: c.weights == "none"),
        ("models=[resnet34]", lambda c: c.models == ["resnet34"]),
        ("refit=true", lambda c: c.refit),
        ("pack.fit=crop", lambda c: c.pack.fit == "crop"),
        ("lr=auto", lambda c: (c.phases["all"].lr or c.lr) == "auto"),
    ],
)
@pytest.mark.parametrize("name", [name for name in RECIPES if "all" in RECIPES[name]["phases"]])
def test_dvc_s_overrides_do_what_they_say_on_every_recipe(name, override, holds, tmp_path):
    read(RECIPES[name], tmp_path)
    apply_overrides(str(tmp_path / "params.yaml"), [override])  # what `dvc exp run -S` does
    assert holds(params.load_params(tmp_path / "params.yaml"))


def one_of_them() -> list[Any]:
    """Our own recipe; the others are long. test_real_runs.py runs one-cycle by DVC, and the sample."""
    others = sorted(RECIPES.keys() - {"sample", "stanford-cars"})
    return ["stanford-cars", *(pytest.param(name, marks=pytest.mark.long) for name in others)]


@pytest.mark.parametrize(
    ("override", "holds"),
    [
        ("phases.solve.strength=0.5", lambda c: c.phases["solve"].strength == 0.5),
        ("class_weights=balanced", lambda c: c.class_weights == "balanced"),
        ("head.stage=layer3", lambda c: c.head.stages == ["layer3"]),
        ("head.channels=16", lambda c: c.head.channels == 16),
    ],
)
def test_dvc_s_overrides_reach_a_phase_that_is_solved(override, holds, tmp_path):
    read(RECIPES["one-pass"], tmp_path)
    apply_overrides(str(tmp_path / "params.yaml"), [override])
    assert holds(params.load_params(tmp_path / "params.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_them())
def test_every_recipe_runs_shrunk_through_the_real_stages(name, project, monkeypatch):
    data = shrunk(name)
    config = read(data, project)
    monkeypatch.syspath_prepend(str(ROOT / "src"))
    for stage, definition in STAGES.items():
        main = importlib.import_module(script_of(stage).stem).main
        main(["--model", "resnet18", "--seed", "0"] if "matrix" in definition else [])
    history = pd.read_csv(f"plots/{name}/history/resnet18-0.csv")
    assert history["phase"].tolist() == list(data["phases"])
    results = json.loads(Path(f"reports/{name}/results/resnet18-0.json").read_text())
    assert results["lr"] == {k: phase.lr or config.lr for k, phase in config.trained_phases.items()}
    assert 0 <= results["test"]["top1"] <= 1
    # with a flip, evaluate predicts the validation images otherwise than training did
    assert data["evaluate"]["flip"] or results["val"]["top1"] == history["val_top1"].max()
    folder = Path(f"plots/{name}/lr_range/resnet18-0")
    assert {file.stem for file in folder.glob("*.csv")} == set(data["phases"])
    tested = {k for k, phase in config.trained_phases.items() if phase.lr_range_test}
    rows = {file.stem: len(pd.read_csv(file)) for file in folder.glob("*.csv")}
    assert rows == {phase: 10 if phase in tested else 0 for phase in data["phases"]}
    sidecar = json.loads(Path(f"models/{name}/resnet18-0.json").read_text())
    assert sidecar["refit"] == data["refit"]
    page = Path("reports/index.html").read_text()
    assert ("LR range test" in page) == bool(tested)
