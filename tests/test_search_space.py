"""The search space as the user types it, and the values that are sampled from it."""

import json
import math
import shutil

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pipeline import ROOT

from finegrain.config import params
from finegrain.core.errors import UserError
from finegrain.search import search_space
from finegrain.search.trial import Trial

NOW = params.load_yaml(ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=1e-4..1e-1:log", FloatDistribution(1e-4, 1e-1, log=True)),
        ("label_smoothing=0..0.2", FloatDistribution(0, 0.2)),
        ("augment.mixup_alpha=0..1", FloatDistribution(0, 1)),
        ("augment.zoom=1..8:log", FloatDistribution(1, 8, log=True)),
        ("phases.all.epochs=4..12", IntDistribution(4, 12)),
        ("batch_size=8..64:log", IntDistribution(8, 64, log=True)),
        ("evaluate.image_size=32..64", IntDistribution(32, 64)),
        ("batch_size=8,16", CategoricalDistribution(["8", "16"])),
        ("lr=1e-3,auto", CategoricalDistribution(["0.001", '"auto"'])),
        ("augment.flip=true,false", CategoricalDistribution(["true", "false"])),
        ("ema_decay=null,0.99", CategoricalDistribution(["null", "0.99"])),
        ("models=[resnet18],[resnet34]", CategoricalDistribution(['["resnet18"]', '["resnet34"]'])),
        ("weights=../a.safetensors,../b.pth", CategoricalDistribution(['"../a.safetensors"', '"../b.pth"'])),
        ("weights=./modèle.pth,none", CategoricalDistribution(['"./modèle.pth"', '"none"'])),
        ("weights=../a.safetensors", CategoricalDistribution(['"../a.safetensors"'])),
    ],
)
def test_ranges_and_choices(text, expected):
    name = text.split("=")[0]
    space = search_space.parse_space([text], NOW)
    assert space == {name: expected}
    search_space.reject_impossible(space, NOW)


def test_a_range_is_of_real_numbers_where_params_yaml_writes_one_without_a_point():
    now = {**NOW, "augment": {**NOW["augment"], "rotate_degrees": 10}}
    assert search_space.parse_space(["augment.rotate_degrees=0..15"], now) == {
        "augment.rotate_degrees": FloatDistribution(0, 15)
    }


def test_the_settings_for_all_trials_are_part_of_what_is_checked(project):
    shutil.copy(ROOT / "params.yaml", project)
    assert search_space.load_with_overrides([]) == NOW
    settings = ["batch_size=12", "lr=1e-3", "seeds=[0,1]", "phases.all.trainable=head"]
    phase = {**NOW["phases"]["all"], "trainable": "head"}
    now = search_space.load_with_overrides(settings)
    assert now == {**NOW, "batch_size": 12, "lr": 0.001, "seeds": [0, 1], "phases": {"all": phase}}
    search_space.reject_impossible(search_space.parse_space(["devices=2,3"], now), now)
    with pytest.raises(UserError, match="devices=3: batch_size: 16: must be a multiple of 3 devices"):
        search_space.reject_impossible(search_space.parse_space(["devices=2,3"], NOW), NOW)
    together = search_space.load_with_overrides(["devices=3", "batch_size=12"])  # devices=3 alone is invalid
    assert together["devices"] == 3
    assert params.load_yaml() == NOW


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["models=[resnet19]"], r"params.yaml --set models=\[resnet19\]: models.0: .*did you mean"),
        (["devices=3"], "--set devices=3: batch_size: 16: must be a multiple of 3 devices"),
        (["nope=1"], r"--set nope=1: `dvc exp run -S` would reject it \(Could not override 'nope'.\)"),
        (["lr=0.1,0.2"], "--set lr=0.1,0.2: `dvc exp run -S` would reject it"),
        (["lr=range(1,3)"], r"--set lr=range\(1,3\): `dvc exp run -S` would reject it"),
        (["lr='"], "--set lr=': `dvc exp run -S` would reject it"),
        (["weights=${nope}"], "`dvc exp run -S` would reject it"),
        (["+nope=1"], r"--set \+nope=1: unknown key 'nope'"),
    ],
)
def test_impossible_settings_are_rejected_before_anything_runs(settings, message, project):
    shutil.copy(ROOT / "params.yaml", project)
    with pytest.raises(UserError, match=message):
        search_space.load_with_overrides(settings)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["lr"], "lr: must be PARAMETER=VALUES, such as"),
        (["=1,2"], "=1,2: must be PARAMETER=VALUES"),
        (["lr=1..2", "lr=1..3"], "lr: is given twice"),
        (["lr=0..1:log"], "a range on the log scale must begin above 0"),
        (["lr=1..0.1"], "lr: 1..0.1 must begin below its end"),
        (["lr=1..nan"], "must begin below its end"),
        (["lr=1..1" + "0" * 400], "must begin below its end"),
        (["lr=1..2..3"], "lr: 1..2..3 is not a range"),
        (["lr=a..b"], "is not a range; write LOW..HIGH"),
        (["lr=1..2:ln"], "ln is not a scale"),
        (["batch_size=8,8"], "batch_size: 8,8 has a value twice"),
        (["batch_size=8]"], "is not a list of values"),
        (["batch_size=2026-01-01"], "is not a list of values"),
        (["batch_size=2026-13-45"], "is not a list of values"),
        (["learning_rate=1,2"], "params.yaml has no learning_rate; did you mean lr?"),
        (["epochs=1..2"], "params.yaml has no epochs; did you mean phases.all.epochs?"),
        (["lr.all=1,2"], "params.yaml has no lr.all"),
        (["lr.all=1..2"], "params.yaml has no lr.all"),
        (["batch_size=-1..8"], "batch_size=-1: batch_size: -1"),
        (["models=[resnet18],[resnet19]"], r'models=\["resnet19"\]: models.0: .*did you mean'),
        (["label_smoothing=0..2"], "label_smoothing=2.0: label_smoothing: 2.0: must be less"),
    ],
)
def test_an_impossible_space_is_rejected_before_anything_runs(texts, message):
    with pytest.raises(UserError, match=message):
        search_space.reject_impossible(search_space.parse_space(texts, NOW), NOW)


def test_what_only_epochs_use_is_rejected_where_every_phase_is_solved():
    now = params.load_yaml(ROOT / "recipes/one-pass.yaml")
    for text in "lr=1e-4..1e-2:log", "batch_size=8,16", "augment.flip=true,false":
        with pytest.raises(UserError, match=f"{text.split('=')[0]}: changes nothing, as no phase"):
            search_space.reject_impossible(search_space.parse_space([text], now), now)
    search_space.reject_impossible(search_space.parse_space(["phases.solve.flip=true,false"], now), now)


SPACE = search_space.parse_space(
    ["lr=1e-4..1e-2:log", "phases.all.epochs=2..8", "augment.flip=true,false"], NOW
)


def next_values(trials, sampler="tpe", seed=0):
    return search_space.next_values(SPACE, NOW, trials, sampler, seed)


def test_the_first_trial_has_the_values_of_params_yaml_if_they_are_in_the_space():
    assert next_values([]) == {"lr": "0.002", "phases.all.epochs": "5", "augment.flip": "true"}
    elsewhere = search_space.parse_space(["lr=0.1..0.2"], NOW)
    for seed in (0, 10**9):
        assert 0.1 <= float(search_space.next_values(elsewhere, NOW, [], "random", seed)["lr"]) <= 0.2
    decay = search_space.parse_space(["ema_decay=0.9..0.99"], NOW)
    assert search_space.current_values(decay, NOW) is None  # null is not a number


def test_sampled_values_are_in_the_space_and_in_the_form_of_params_yaml():
    trials = [Trial(0, next_values([]), "done", 0.5, 1.0, 10)]
    for number in range(1, 30):
        values = next_values(trials, "random" if number % 2 else "tpe")
        lr, epochs, flip = (json.loads(values[name]) for name in SPACE)
        assert 1e-4 <= lr <= 1e-2 and len(f"{lr:.3e}") == 9 and float(f"{lr:.4g}") == lr
        assert epochs in range(2, 9) and flip in (True, False)
        trials.append(Trial(number, values, "failed" if number % 5 == 0 else "done", lr, 1.0, 10))
    assert len({trial.values["lr"] for trial in trials}) == 30


def test_the_ends_of_a_range_may_have_more_digits_than_sampled_values():
    narrow = search_space.parse_space(["lr=0.00123456..0.00123457"], NOW)
    trials: list[Trial] = []
    for number in range(5):
        values = search_space.next_values(narrow, NOW, trials, "random", 0)
        assert 0.00123456 <= float(values["lr"]) <= 0.00123457
        trials.append(Trial(number, values, "done", 0.5, 1.0, 10))


def test_the_value_of_params_yaml_keeps_all_its_digits():
    now = {**NOW, "lr": 0.00123456789}
    assert search_space.next_values(search_space.parse_space(["lr=1e-4..1e-2"], NOW), now, [], "tpe", 0) == {
        "lr": "0.00123456789"
    }


def test_the_same_trials_are_followed_by_the_same_one():
    trials = [Trial(i, next_values([]), "done", 0.1 * i, 1.0, 10) for i in range(3)]
    assert next_values(trials) == next_values(trials) != next_values(trials, seed=1)
    assert next_values(trials) != next_values(trials[:2])


def test_tpe_samples_where_trials_were_good():
    """Only the learning rate matters, 1e-3 is best: at random it is half a factor of ten away on average."""
    late = []
    for seed in range(3):
        trials: list[Trial] = []
        for number in range(40):
            values = next_values(trials, seed=seed)
            off = abs(math.log10(float(values["lr"])) + 3)
            trials.append(Trial(number, values, "done", 1 - off, off, 10))
        late += [trial.loss for trial in trials[20:]]
    assert sum(late) / len(late) < 0.36
