"""dvc.yaml declares exactly the code and the parameters that each stage uses."""

import subprocess
import sys

import pytest
from pipeline import ROOT, STAGES, local_imports, script_of

from finegrain.config import params


@pytest.mark.parametrize("stage", STAGES)
def test_stage_declares_the_code_it_runs(stage):
    declared = {path for path in STAGES[stage]["deps"] if path.startswith("src/")}
    assert declared == local_imports(script_of(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_the_imports_found_in_the_text_hold_those_really_made(stage):
    """What Python loads when the script is imported lies within what the walk over the text found."""
    code = (
        f"import sys; sys.path.insert(0, 'src'); import {script_of(stage).stem}\n"
        "for m in list(sys.modules.values()):\n    print(getattr(m, '__file__', None))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {
        line.removeprefix(f"{ROOT}/") for line in done.stdout.splitlines() if line.startswith(f"{ROOT}/src/")
    }
    assert loaded and loaded <= local_imports(script_of(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_no_shell_stays_between_dvc_and_the_script(stage):
    """The script asks to die with its parent, which must be dvc: some shells stay, others do not."""
    assert STAGES[stage]["cmd"].startswith("exec python src/")


def test_every_parameter_is_declared_by_some_stage():
    declared = {str(key).split(".")[0] for stage in STAGES.values() for key in stage["params"]}
    assert declared == set(params.Params.model_fields)


def test_training_parameters_do_not_touch_the_data_stages():
    for stage in ("split", "pack"):
        assert not {"lr", "phases", "batch_size", "weights", "models"} & set(STAGES[stage]["params"])


def test_the_dataset_stages_do_not_depend_on_the_network_s_code():
    for stage in ("download", "split", "pack"):
        deps = set(STAGES[stage]["deps"])
        assert not deps & {
            f"src/finegrain/{name}.py" for name in ("model", "loop", "optim", "augment", "scores")
        }


def test_every_stage_of_the_matrix_writes_files_of_its_own():
    for stage in ("train", "evaluate"):
        for kind in ("outs", "metrics", "plots"):
            for entry in STAGES[stage].get(kind, []):
                path = entry if isinstance(entry, str) else next(iter(entry))
                assert "${item.model}" in path
