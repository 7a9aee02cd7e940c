"""What scikit-learn asks of an estimator, without importing it."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from importlib import import_module
from typing import Any

from structure_reg.training._checks import check_option_names


def defaults_of(kind: type) -> dict[str, Any]:
    """The options of a constructor with their defaults, in order."""
    options = inspect.signature(kind).parameters
    return {name: option.default for name, option in options.items()}


def options_of(estimator: Any) -> dict[str, Any]:
    return {name: getattr(estimator, name) for name in defaults_of(type(estimator))}


def set_options(estimator: Any, options: dict[str, Any]) -> None:
    check_option_names(type(estimator).__name__, options, defaults_of(type(estimator)))
    for name, value in options.items():
        setattr(estimator, name, value)


def changed_options(estimator: Any, *, but: Collection[str] = ()) -> str:
    """The call that makes an estimator, without these options and those that have their default."""
    options = options_of(estimator)
    changed = [f"{name}={options[name]!r}" for name in changed_names(estimator) if name not in but]
    return f"{type(estimator).__name__}({', '.join(changed)})"


def changed_names(estimator: Any) -> list[str]:
    """Names of the options that do not have their default."""
    defaults = defaults_of(type(estimator))
    # The texts are compared: values of any kind have one, and arrays have no single truth.
    options = options_of(estimator).items()
    return [name for name, value in options if repr(value) != repr(defaults[name])]


def tags() -> Any:
    """Tags for scikit-learn 1.6 or later: a fit needs y, which is a matrix of features as x is."""
    utils = import_module("sklearn.utils")
    target = utils.TargetTags(required=True, one_d_labels=False, multi_output=True)
    return utils.Tags(estimator_type=None, target_tags=target)
