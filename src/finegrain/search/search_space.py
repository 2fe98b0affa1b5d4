"""The space of a hyperparameter search: parameters of params.yaml and their values, as the user types them.

``lr=1e-4..1e-1:log`` is a range (log: each factor of ten is equally likely), ``phases.all.epochs=4..12`` a
range of integers because the parameter takes no others, and ``batch_size=8,16,32`` or
``models=[resnet18],[resnet50]`` a choice.
"""

import copy
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from finegrain.config import params
from finegrain.config.messages import nearest
from finegrain.core import paths
from finegrain.core.errors import UserError
from finegrain.search.trial import Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)
COMPLETE, FAIL = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL
STARTUP = 8
"""Number of trials that are sampled at random before TPE takes over."""
Space = dict[str, BaseDistribution]
"""Distribution of each parameter; the choices of a categorical one are JSON text."""
FOR_EPOCHS = {"lr", "batch_size", "label_smoothing", "ema_decay", "augment", "lr_range_test"}
"""Parameters that a solved phase does not use."""
DIGITS = 4
"""Significant digits of a value from a range; more would only make the experiments hard to read."""


def load_with_overrides(settings: Sequence[str]) -> dict[str, Any]:
    """The parameters of params.yaml with settings applied by DVC, as `dvc exp run -S` does, to a copy.

    Raises:
        UserError: DVC rejects a setting, or all together are not valid parameters.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides
    from omegaconf.errors import OmegaConfBaseException
    from ruamel.yaml.error import YAMLError

    parameters = params.load_yaml()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(shutil.copy(paths.PARAMS, folder))
        for setting in settings:
            try:
                apply_overrides(file, [setting])
            except (DvcException, OmegaConfBaseException, YAMLError) as error:
                reason = str(error.__cause__ or error).splitlines()[0]
                raise UserError(f"--set {setting}: `dvc exp run -S` would reject it ({reason})") from None
            parameters = params.load_yaml(file)
    params.validate(parameters, " ".join([str(paths.PARAMS), *(f"--set {setting}" for setting in settings)]))
    return parameters


def parse_space(texts: list[str], parameters: Mapping[str, Any]) -> Space:
    """The space that the user describes, one text for each parameter.

    Args:
        parameters: valid ones; they decide whether a range is of integers or of real numbers.

    Raises:
        UserError: a text has none of the forms above.
    """
    space: Space = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name and equals and values):
            raise UserError(f"{text}: must be PARAMETER=VALUES, such as lr=1e-4..1e-1:log or batch_size=8,16")
        if name in space:
            raise UserError(f"{name}: is given twice")
        is_range = ".." in values and not set(values) & set(",/")  # a path may hold .. too
        space[name] = _range(name, values, parameters) if is_range else _choice(name, values)
    return space


def _range(name: str, text: str, parameters: Mapping[str, Any]) -> BaseDistribution:
    ends, colon, scale = text.partition(":")
    try:
        low, high = (_number(end) for end in ends.split(".."))
    except ValueError:
        raise UserError(f"{name}: {text} is not a range; write LOW..HIGH or LOW..HIGH:log") from None
    if colon and scale != "log":
        raise UserError(f"{name}: {scale} is not a scale; a range may end in :log")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{name}: {text} must begin below its end")
    if scale and low <= 0:
        raise UserError(f"{name}: {text}: a range on the log scale must begin above 0")
    if isinstance(low, int) and isinstance(high, int) and not _accepts(parameters, name, low + 0.5):
        return IntDistribution(low, high, log=bool(scale))
    return FloatDistribution(low, high, log=bool(scale))


def _accepts(parameters: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether a parameter may have a value; its present value does not show that: a real number may be 10."""
    changed = _with_value(parameters, name, value)
    try:
        params.validate(changed, name)
    except UserError:
        return False
    return True


def _with_value(parameters: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A copy with another value of an existing parameter.

    Raises:
        UserError: there is no such parameter.
    """
    changed = copy.deepcopy(dict(parameters))
    _lookup(changed, name)
    *sections, last = name.split(".")
    section: Any = changed
    for key in sections:
        section = section[key]
    section[last] = value
    return changed


def _number(text: str) -> int | float:
    """A number from its text; one that is not a number and finite as a float is not an integer either."""
    number = float(text)
    try:
        return int(text) if math.isfinite(number) else number
    except ValueError:
        return number


def _choice(name: str, text: str) -> BaseDistribution:
    try:
        choices = [json.dumps(_as_number(value), ensure_ascii=False) for value in yaml.safe_load(f"[{text}]")]
    except (yaml.YAMLError, ValueError, TypeError):  # TypeError: a date, which JSON lacks
        choices = []
    if not choices:
        raise UserError(f"{name}: {text} is not a list of values; write them with commas, such as 8,16,32")
    if len(set(choices)) != len(choices):
        raise UserError(f"{name}: {text} has a value twice")
    return CategoricalDistribution(choices)


def _as_number(value: Any) -> Any:
    """A number that YAML read as text, such as 1e-3; any other value as it is."""
    try:
        return _number(value) if isinstance(value, str) else value
    except ValueError:
        return value


def format_value(value: Any) -> str:
    """A sampled value in the form that `dvc exp run -S` and params.yaml take."""
    return repr(value) if isinstance(value, float) else str(value)


def parse_value(value: str) -> Any:
    """The value of a text from ``format_value``."""
    return json.loads(value)


def _round(distribution: BaseDistribution, value: Any) -> Any:
    """A value with few digits, unless these lie outside its range."""
    if not isinstance(distribution, FloatDistribution):
        return value
    rounded = float(f"{value:.{DIGITS}g}")
    return rounded if distribution.low <= rounded <= distribution.high else value


def current_values(space: Space, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values that params.yaml has now, as a sampler returns them; None if one is outside the space.

    Raises:
        UserError: it has no such parameter.
    """
    values: dict[str, Any] = {}
    for name, distribution in space.items():
        value = _lookup(parameters, name)
        if isinstance(distribution, CategoricalDistribution):
            value = json.dumps(value, ensure_ascii=False)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            return None
        elif isinstance(distribution, FloatDistribution):
            value = float(value)
        if not _contains(distribution, value):
            return None
        values[name] = value
    return values


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return distribution._contains(distribution.to_internal_repr(value))


def reject_impossible(space: Space, parameters: Mapping[str, Any]) -> None:
    """Check every choice and both ends of every range, each by itself.

    Raises:
        UserError: params.yaml would be invalid with one of them, a parameter changes nothing, or trials could
            not be compared.
    """
    no_epochs = not params.validate(dict(parameters), "params.yaml").trained_phases
    for name, distribution in space.items():
        if name == "choose_by":
            raise UserError("choose_by: is what the trials are compared by; give one value with --set")
        if no_epochs and name.partition(".")[0] in FOR_EPOCHS:
            raise UserError(f"{name}: changes nothing, as no phase has epochs; a solved one has strength")
        if isinstance(distribution, CategoricalDistribution):
            values = [parse_value(str(choice)) for choice in distribution.choices]
        elif isinstance(distribution, FloatDistribution | IntDistribution):
            values = [distribution.low, distribution.high]
        for value in values:
            params.validate(_with_value(parameters, name, value), f"{name}={json.dumps(value)}")


def _lookup(parameters: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name.

    Raises:
        UserError: there is no such parameter.
    """
    value: Any = parameters
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            names, last = list(_names(parameters)), name.rpartition(".")[-1]
            near = next((each for each in names if each.endswith(f".{last}")), None) or nearest(name, names)
            example = "give one of its parameters, such as lr or phases.all.epochs"
            fix = f"did you mean {near}?" if near else example
            raise UserError(f"params.yaml has no {name}; {fix}")
        value = value[key]
    return value


def _names(parameters: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Each parameter's name from the top, as in ``phases.all.epochs``."""
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def next_values(
    space: Space, parameters: Mapping[str, Any], trials: Sequence[Trial], sampler: str, seed: int
) -> dict[str, str]:
    """The values of the next trial, from ``format_value``; the same arguments always give the same values.

    The first trial has the current values of params.yaml if they are in the space: a baseline for the others.

    Args:
        trials: all earlier trials, finished.
        sampler: random, or tpe: tree-structured Parzen estimator (Bergstra et al. 2011), which samples more
            where trials were good.
    """
    if not trials and (current := current_values(space, parameters)):
        return {name: format_value(value) for name, value in current.items()}
    trial_seed = (seed * 1_000_003 + len(trials)) % 2**32  # what NumPy takes
    samplers = {
        "random": lambda: optuna.samplers.RandomSampler(seed=trial_seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=trial_seed, n_startup_trials=STARTUP),
    }
    sampled = build_study(space, trials, samplers[sampler]()).ask(space).params
    return {name: format_value(_round(space[name], value)) for name, value in sampled.items()}


def build_study(
    space: Space, trials: Sequence[Trial], sampler: optuna.samplers.BaseSampler | None = None
) -> optuna.Study:
    """An Optuna study of finished trials, which all have the same metric."""
    is_loss = any(trial.metric == "loss" for trial in trials)
    study = optuna.create_study(direction="minimize" if is_loss else "maximize", sampler=sampler)
    for trial in trials:
        values = {name: _sampled_value(space[name], trial.values[name]) for name in space}
        study.add_trial(
            optuna.trial.create_trial(
                state=COMPLETE if trial.state == "done" else FAIL,
                value=trial.value if trial.state == "done" else None,
                params=values,
                distributions=space,
            )
        )
    return study


def _sampled_value(distribution: BaseDistribution, value: str) -> Any:
    """The value that was sampled, from its text."""
    return value if isinstance(distribution, CategoricalDistribution) else parse_value(value)
