"""What a sweep may try: parameters of params.yaml and their values, as the user types them.

``lr=1e-4..1e-1:log`` is a range (log: each factor of ten as likely), ``phases.all.epochs=4..12`` one of whole
numbers, as epochs are, and ``batch_size=8,16,32`` or ``models=[resnet18],[resnet50]`` a choice.
"""

import copy
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
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
from finegrain.core import paths
from finegrain.core.errors import UserError
from finegrain.search.trial import Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)
COMPLETE, FAIL = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL
STARTUP = 8
"""Trials that are drawn at random before the others count."""
Space = dict[str, BaseDistribution]
DIGITS = 4
"""Of a number from a range: more would only make the experiments hard to read."""


def load_with_overrides(settings: Sequence[str]) -> dict[str, Any]:
    """Those of params.yaml, with the settings put in as `dvc exp run -S` does it: by DVC, in a copy.

    Raises:
        UserError: DVC does not take a setting, or all together are no valid parameters.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides
    from omegaconf.errors import OmegaConfBaseException
    from ruamel.yaml.error import YAMLError

    found = params.load_yaml()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(shutil.copy(paths.PARAMS, folder))
        for setting in settings:
            try:
                apply_overrides(file, [setting])
            except (DvcException, OmegaConfBaseException, YAMLError) as error:
                reason = str(error.__cause__ or error).splitlines()[0]
                raise UserError(f"--set {setting}: `dvc exp run -S` would not take it ({reason})") from None
            found = params.load_yaml(file)
    params.validate(found, " ".join([str(paths.PARAMS), *(f"--set {setting}" for setting in settings)]))
    return found


def parse_space(texts: list[str], parameters: Mapping[str, Any]) -> Space:
    """
    Args:
        parameters: valid ones, which tell a range of whole numbers from one of real numbers.

    Raises:
        UserError: a text is none of the forms above.
    """
    space: Space = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name and equals and values):
            raise UserError(f"{text}: must be PARAMETER=VALUES, such as lr=1e-4..1e-1:log or batch_size=8,16")
        if name in space:
            raise UserError(f"{name}: is given twice")
        ranged = ".." in values and not set(values) & set(",/")  # paths may hold .. too
        space[name] = _range(name, values, parameters) if ranged else _choice(name, values)
    return space


def _range(name: str, text: str, parameters: Mapping[str, Any]) -> BaseDistribution:
    ends, colon, scale = text.partition(":")
    try:
        low, high = (_number(end) for end in ends.split(".."))
    except ValueError:
        raise UserError(f"{name}: {text} is no range; write LOW..HIGH or LOW..HIGH:log") from None
    if colon and scale != "log":
        raise UserError(f"{name}: {scale} is no scale; a range may end in :log")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{name}: {text} must begin below its end")
    if scale and low <= 0:
        raise UserError(f"{name}: {text}: a range on the log scale must begin above 0")
    if isinstance(low, int) and isinstance(high, int) and not _accepts(parameters, name, low + 0.5):
        return IntDistribution(low, high, log=bool(scale))
    return FloatDistribution(low, high, log=bool(scale))


def _accepts(parameters: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether params.yaml may have this value; the present one says less: a real number may be written 10."""
    changed = _with_value(parameters, name, value)
    try:
        params.validate(changed, name)
    except UserError:
        return False
    return True


def _with_value(parameters: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A copy with another value of a parameter that there is."""
    changed = copy.deepcopy(dict(parameters))
    _lookup(changed, name)
    *sections, last = name.split(".")
    section: Any = changed
    for key in sections:
        section = section[key]
    section[last] = value
    return changed


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _choice(name: str, text: str) -> BaseDistribution:
    try:
        values = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        values = []
    if not isinstance(values, list) or not values:
        raise UserError(f"{name}: {text} is no list of values; write them with commas, such as 8,16,32")
    written = [json.dumps(_as_number(value), ensure_ascii=False) for value in values]
    if len(set(written)) != len(written):
        raise UserError(f"{name}: {text} has a value twice")
    return CategoricalDistribution(written)


def _as_number(value: Any) -> Any:
    try:
        return _number(value) if isinstance(value, str) else value
    except ValueError:
        return value


def format_value(value: Any) -> str:
    """A value, as `dvc exp run -S` and params.yaml take it."""
    return repr(value) if isinstance(value, float) else str(value)


def _round(distribution: BaseDistribution, value: Any) -> Any:
    """A number from a range with few digits, unless those lie beyond its ends."""
    if not isinstance(distribution, FloatDistribution):
        return value
    short = float(f"{value:.{DIGITS}g}")
    return short if distribution.low <= short <= distribution.high else value


def parse_value(value: str) -> Any:
    """What ``written`` wrote."""
    return json.loads(value)


def current_values(space: Space, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values that params.yaml has now, as a sampler's; None where one is outside the space.

    Raises:
        UserError: it has no such parameter.
    """
    found: dict[str, Any] = {}
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
        found[name] = value
    return found


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return distribution._contains(distribution.to_internal_repr(value))


def reject_impossible(space: Space, parameters: Mapping[str, Any]) -> None:
    """Check every choice and both ends of every range before the first trial, each by itself.

    Raises:
        UserError: params.yaml would be refused with one of them.
    """
    for name, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            values = [parse_value(str(choice)) for choice in distribution.choices]
        elif isinstance(distribution, FloatDistribution | IntDistribution):
            values = [distribution.low, distribution.high]
        for value in values:
            params.validate(_with_value(parameters, name, value), f"{name}={json.dumps(value)}")


def _lookup(parameters: Mapping[str, Any], name: str) -> Any:
    value: Any = parameters
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise UserError(f"params.yaml has no {name}; name a parameter of it, with dots for its sections")
        value = value[key]
    return value


def next_values(
    space: Space, parameters: Mapping[str, Any], trials: Sequence[Trial], sampler: str, seed: int
) -> dict[str, str]:
    """The values of the next trial, as ``written``; the same whenever the same trials went before.

    The first one is params.yaml as it stands, if that is in the space: what the others are to beat.

    Args:
        sampler: random, or tpe: tree-structured Parzen estimator (Bergstra et al. 2011), which draws more
            where trials were good.
    """
    if not trials and (first := current_values(space, parameters)):
        return {name: format_value(value) for name, value in first.items()}
    drawing = seed * 1_000_003 + len(trials)
    kinds = {
        "random": lambda: optuna.samplers.RandomSampler(seed=drawing),
        "tpe": lambda: optuna.samplers.TPESampler(seed=drawing, n_startup_trials=STARTUP),
    }
    drawn = build_study(space, trials, kinds[sampler]()).ask(space).params
    return {name: format_value(_round(space[name], value)) for name, value in drawn.items()}


def build_study(
    space: Space, trials: Sequence[Trial], sampler: optuna.samplers.BaseSampler | None = None
) -> optuna.Study:
    """The trials that have ended, as Optuna sees them."""
    made = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in trials:
        values = {name: _sampled_value(space[name], trial.values[name]) for name in space}
        made.add_trial(
            optuna.trial.create_trial(
                state=COMPLETE if trial.state == "done" else FAIL,
                value=trial.top1 if trial.state == "done" else None,
                params=values,
                distributions=space,
            )
        )
    return made


def _sampled_value(distribution: BaseDistribution, value: str) -> Any:
    return value if isinstance(distribution, CategoricalDistribution) else parse_value(value)
