"""dvc.yaml declares the packages and the parameters that each stage uses."""

from pathlib import Path

import fork_server
import pytest
import yaml
from pipeline import ROOT, STAGES, local_imports, script_of

from finegrain.config import params

PACKAGE = "src/finegrain"


def packages_of(files: set[str]) -> set[str]:
    """The folders of finegrain's packages that these files are in."""
    return {str(Path(*Path(file).parts[:3])) for file in files if len(Path(file).parts) > 3}


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "download"])
def test_a_stage_declares_the_packages_that_its_script_imports_and_no_others(stage):
    declared = {path for path in STAGES[stage]["deps"] if path.startswith("src/")}
    files = local_imports(script_of(stage))
    assert declared == {str(script_of(stage))} | packages_of(files)


def test_download_declares_what_can_change_the_archive_and_nothing_else():
    """Its other imports cannot, and its sha256 is recorded: an edit of them must not download it again."""
    declared = {path for path in STAGES["download"]["deps"] if path.startswith("src/")}
    assert declared == {"src/download.py", f"{PACKAGE}/sample", f"{PACKAGE}/sources"}
    assert packages_of(local_imports(script_of("download"))) == {
        f"{PACKAGE}/{name}" for name in ("core", "config", "sample", "sources")
    }


def test_the_imports_found_in_the_text_hold_those_really_made(tmp_path):
    """The modules that Python loads when the scripts are imported are among those found in their text."""
    scripts = [script_of(stage) for stage in ("evaluate", "train", "compare", "split", "pack")]
    lines = ["import sys", *(f"import {script.stem}" for script in scripts)]
    lines += ["for m in list(sys.modules.values()):", "    print(getattr(m, '__file__', None))"]
    (tmp_path / "importing.py").write_text("\n".join(lines))
    done = fork_server.run(tmp_path / "importing.py", [], tmp_path)  # it has imported three of them, no tests
    assert done.returncode == 0, done.output
    loaded = {
        line.removeprefix(f"{ROOT}/") for line in done.output.splitlines() if line.startswith(f"{ROOT}/src/")
    }
    found = set().union(*map(local_imports, scripts))
    assert {str(script) for script in scripts} <= loaded <= found


@pytest.mark.parametrize("stage", STAGES)
def test_no_shell_stays_between_dvc_and_the_script(stage):
    """A script ends with its parent, which must be dvc and not a shell: some shells stay in between."""
    assert STAGES[stage]["cmd"].startswith("exec python3 src/")


def test_every_parameter_that_can_change_a_result_is_declared_by_some_stage():
    declared = {str(key).split(".")[0] for stage in STAGES.values() for key in stage["params"]}
    assert declared == set(params.Params.model_fields) - {"checkpoint_seconds", "device"}


def test_training_parameters_do_not_touch_the_data_stages():
    for stage in ("split", "pack"):
        assert not {"lr", "phases", "batch_size", "weights", "models"} & set(STAGES[stage]["params"])


def test_every_stage_of_the_matrix_writes_files_of_its_own():
    for stage in ("train", "evaluate"):
        for kind in ("outs", "metrics", "plots"):
            for entry in STAGES[stage].get(kind, []):
                path = entry if isinstance(entry, str) else next(iter(entry))
                assert "${item.model}" in path


def test_the_pipeline_file_reads_in_a_minute_and_the_lock_has_no_dead_stage():
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 160
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    runs = [f"{model}-{seed}" for model in values["models"] for seed in values["seeds"]]
    matrix = {f"{stage}@{run}" for stage in ("train", "evaluate") for run in runs}
    locked = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    assert set(locked) == matrix | (set(STAGES) - {"train", "evaluate"})
