"""Which stages DVC runs again after which edit of the code: real DVC, with stub stages."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from clone import Clone
from stub_stages import stages_run

pytestmark = pytest.mark.slow

RUN = "resnet18-0"
READERS = {
    "sample": {"download"},
    "sources": {"download", "split", "pack"},
    "dataset": {"split", "pack"},
    "core": {"inputs", "split", "pack", "train", "evaluate", "compare", "winner"},
    "config": {"inputs", "split", "pack", "train", "evaluate", "compare", "winner"},
    "runtime": {"train", "evaluate"},
    "loading": {"train", "evaluate"},
    "augmentation": {"train", "evaluate"},
    "models": {"train", "evaluate", "compare"},
    "ridge": {"train"},
    "training": {"train"},
    "evaluation": {"evaluate", "compare"},
    "comparison": {"compare"},
    "serving": set(),
    "export": set(),
    "experiments": set(),
    "search": set(),
}
"""Package of src/finegrain -> stages that its code can change."""


@pytest.fixture
def clone(stubbed, tmp_path) -> Clone:
    return stubbed.copied(tmp_path / "clone")


def append_comment(file: Path) -> None:
    with file.open("a") as code:
        code.write("# edited\n")


def modified_code(clone: Clone) -> dict[str, set[str]]:
    """The scripts and packages whose change makes ``dvc repro`` run a stage, by stage."""
    found = {}
    for stage, changes in json.loads(clone("dvc status --json")).items():
        assert set(change for each in changes for change in each) == {"changed deps"}
        paths = {path for change in changes for path in change["changed deps"]}
        found[stage.partition("@")[0]] = {
            path.removeprefix("src/").removeprefix("finegrain/") for path in paths
        }
    return found


def test_an_edit_of_code_for_users_alone_runs_no_stage(clone):
    package = clone.folder / "src/finegrain"
    apart = [name for name, stages in READERS.items() if not stages]
    modules = [file for name in apart for file in (package / name).rglob("*.py")]
    modules += [package / "cli.py", package / "optional_deps.py"]
    assert len(modules) > 25
    for module in modules:
        append_comment(module)
    assert modified_code(clone) == {}


def test_bytecode_runs_no_stage(clone):
    packages = [file.parent for file in (clone.folder / "src/finegrain").rglob("__init__.py")]
    assert len(packages) == 1 + len(READERS)
    for folder in packages:
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    assert modified_code(clone) == {}
    for folder in packages:
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__/module.cpython-311.pyc").write_bytes(b"bytecode")
    assert modified_code(clone) == {}


def test_an_edit_of_a_package_runs_the_stages_that_use_it(clone):
    """All at once; in some a module is new or removed."""
    package = clone.folder / "src/finegrain"
    assert {file.parent.name for file in package.glob("*/__init__.py")} == READERS.keys()
    for number, name in enumerate(READERS):
        first, *_ = sorted(file for file in (package / name).glob("*.py") if file.stem != "__init__")
        (append_comment, Path.unlink, lambda file: append_comment(file.with_name("new.py")))[number % 3](
            first
        )
    expected: dict[str, set[str]] = {}
    for name, stages in READERS.items():
        for stage in stages:
            expected.setdefault(stage, set()).add(name)
    assert modified_code(clone) == expected


def test_an_edit_of_a_script_runs_that_stage(clone):
    scripts = sorted((clone.folder / "src").glob("*.py"))
    assert len(scripts) == 8
    for script in scripts:
        append_comment(script)
    assert modified_code(clone) == {script.stem: {script.name} for script in scripts}


def test_an_edit_of_evaluation_evaluates_and_compares_again_and_trains_nothing(clone):
    append_comment(clone.folder / "src/finegrain/evaluation/metrics.py")
    assert stages_run(clone("dvc repro")) == {f"evaluate@{RUN}", "compare"}
    script = clone.folder / "src/evaluate.py"
    script.write_text(script.read_text().replace('CODE_MARK = "stub"', 'CODE_MARK = "other"'))
    assert stages_run(clone("dvc repro")) == {f"evaluate@{RUN}", "compare", "winner"}


def test_every_stage_s_code_is_recorded(clone):
    """dvc.lock holds what a later `dvc status` compares with: none of it may have been left out."""
    lock = yaml.safe_load((clone.folder / "dvc.lock").read_text())["stages"]
    recorded: dict[str, set[str]] = {name: set() for name in READERS}
    for stage, entry in lock.items():
        for dependency in entry["deps"]:
            if dependency["path"].startswith("src/finegrain/"):
                recorded[Path(dependency["path"]).name].add(stage.partition("@")[0])
    assert recorded == READERS
