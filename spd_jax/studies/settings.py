"""Settings of a run: one frozen dataclass per experiment, from which all else is derived.

A field made by `setting` says what it means, what is allowed, and what it does to a run that
goes on. Flags, help, config.json and the sentence about what differs all come from there.
"""

import dataclasses
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

from spd_jax import dish
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.files import to_json

LARGEST_COUNT = 10**6  # of whatever is counted, unless a setting says otherwise
LARGEST_SEED = 2**31 - 1  # a seed and a count together stay below 2**32, as random keys need


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of one field.

    Attributes:
      help: what it means, one sentence.
      choices: allowed values; empty allows all.
      at_least: smallest allowed number, or item of a tuple of numbers.
      at_most: largest allowed number; None: see `largest` for whole numbers, any other number.
      grows: a run may go on with a larger value, which extends it.
      free: it decides no result, so that it may differ when a run goes on.
      by_preset: its default is the preset's, where the preset names one.
      flag: name on the command line; empty: that of the field.
    """

    help: str
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    grows: bool = False
    free: bool = False
    by_preset: bool = False
    flag: str = ""


def setting(default: Any, help: str, **options: Any) -> Any:
    """Return a dataclass field with a default and a `Setting`, whose other fields `options` are."""
    return dataclasses.field(default=default, metadata={"setting": Setting(help, **options)})


def of(settings: Any) -> dict[str, Setting]:
    """Return what is known of every field of a settings dataclass, or of an instance."""
    return {field.name: field.metadata["setting"] for field in dataclasses.fields(settings)}


def largest(name: str, known: Setting) -> float | None:
    """Return the largest allowed number of a setting: its own, or that of whole numbers."""
    if known.at_most is not None:
        return known.at_most
    return LARGEST_SEED if name == "seed" else LARGEST_COUNT


def kinds(hint: Any) -> tuple[Any, Any]:
    """Return the class behind a type hint and, of a tuple, that of its items.

    >>> kinds(tuple[int, ...] | None)
    (<class 'tuple'>, <class 'int'>)
    """
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return typing.get_origin(hint) or hint, next(iter(typing.get_args(hint)), None)


def check(settings: Any) -> None:
    """Refuse a value that is not allowed.

    Raises:
      UserError: one sentence with the field's name and what is allowed.
    """
    hints = typing.get_type_hints(type(settings))
    for name, known in of(settings).items():
        value, hint = getattr(settings, name), hints[name]
        if value is None and types.NoneType in typing.get_args(hint):
            continue
        kind, item_kind = kinds(hint)
        if kind is DishConfig:
            _check_dish(value)
        elif kind is not tuple:
            _check_one(name, value, kind, known)
        elif not isinstance(value, tuple):
            raise UserError(f"{name}={value!r} must be a tuple")
        else:
            for item in value:
                _check_one(name, item, item_kind, known)


def _check_dish(config: Any) -> None:
    """Refuse a dish that cannot be run, and counts that no machine can run."""
    if not isinstance(config, DishConfig):
        raise UserError(f"dish={config!r} must be a DishConfig")
    dish.check(config)
    for field in dataclasses.fields(config):
        if isinstance(field.default, int | tuple):
            for number in np.ravel(getattr(config, field.name)):
                if number > LARGEST_COUNT:
                    raise UserError(f"{field.name}={number} must be at most {LARGEST_COUNT}")


# What a setting may hold: by type hint, the classes and their name in a sentence.
KINDS: dict[Any, tuple[Any, str]] = {
    bool: ((bool, np.bool_), "True or False"),
    int: ((int, np.integer), "a whole number"),
    float: ((int, float, np.integer, np.floating), "a number"),
    str: (str, "a text"),
}


def _check_one(name: str, value: Any, kind: Any, known: Setting) -> None:
    """Refuse one value, or one item of a tuple."""
    classes, words = KINDS[kind]
    if not isinstance(value, classes) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{name}={value!r} must be {words}")
    if known.choices and value not in known.choices:
        raise UserError(f"{name}={value!r} is unknown: use one of {', '.join(known.choices)}")
    if kind not in (int, float):
        return
    value = value.item() if isinstance(value, np.generic) else value
    if not abs(value) <= sys.float_info.max:  # NaN is refused, too
        raise UserError(f"{name}={value} must be finite")
    if known.at_least is not None and value < known.at_least:
        raise UserError(f"{name}={value} must be at least {known.at_least:g}")
    most = known.at_most if kind is float else largest(name, known)
    if most is not None and value > most:
        raise UserError(f"{name}={value} must be at most {most:.10g}")


def described(settings: Any) -> dict[str, Any]:
    """Return what decides a run's results, JSON-ready: every setting that is not free."""
    return {
        name: to_json(getattr(settings, name))
        for name, known in of(settings).items()
        if not known.free
    }


def growing(settings: Any) -> tuple[str, ...]:
    """Return the names of the settings that may be larger when a run goes on."""
    return tuple(name for name, known in of(settings).items() if known.grows)


def from_json(text: str) -> dict[str, Any]:
    """Read described settings from one line of JSON; raises ValueError when it is none."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"{text!r} is no mapping")
    return found


def differing(
    before: Mapping[str, Any], after: Mapping[str, Any], may_grow: tuple[str, ...] = ()
) -> dict[str, tuple[Any, Any]]:
    """Return what differs between two described settings: name -> (before, after).

    Args:
      before: plain data.
      after: plain data.
      may_grow: names that may be larger in `after`.

    >>> differing({"a": 1, "dish": {"b": 2}}, {"a": 1, "dish": {"b": 3}})
    {'b': (2, 3)}
    """
    found: dict[str, tuple[Any, Any]] = {}
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= differing(old, new)
        elif not (name in may_grow and _is_larger(new, old)):
            found[name] = old, new
    return found


def _is_larger(new: Any, old: Any) -> bool:
    are_numbers = type(new) in (int, float) and type(old) in (int, float)
    return bool(are_numbers and new > old)


def attribute_help(kind: type) -> dict[str, str]:
    """Return what the docstring of a dataclass says of its attributes, by name, on one line."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.split(r"\n {2}(?=\w[\w, ]*:)", "\n" + text)
    heads = (entry.partition(":") for entry in entries if ":" in entry)
    return {
        name: " ".join(words.split())
        for names, _, words in heads
        for name in re.split(r",\s*", names.strip())
    }
