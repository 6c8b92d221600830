"""Settings of a run: one frozen dataclass per experiment, from which all else is derived.

A field made by `setting` says what it means, what is allowed, and what it does to a run that
goes on. Flags, help, config.json and the sentence about what differs all come from there.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from spd_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of one field.

    Attributes:
      help: what it means, one sentence.
      choices: allowed values; empty allows all.
      at_least: smallest allowed number.
      at_most: largest allowed number.
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


def check(settings: Any) -> None:
    """Refuse a value that is not allowed.

    Raises:
      UserError: one sentence with the field's name and what is allowed.
    """
    for name, known in of(settings).items():
        value = getattr(settings, name)
        if known.choices and value not in known.choices:
            raise UserError(f"{name}={value!r} is unknown: use one of {', '.join(known.choices)}")
        if isinstance(value, float) and not np.isfinite(value):
            raise UserError(f"{name}={value} must be finite")
        if value is None or isinstance(value, str):
            continue
        if known.at_least is not None and value < known.at_least:
            raise UserError(f"{name}={value} must be at least {known.at_least:g}")
        if known.at_most is not None and value > known.at_most:
            raise UserError(f"{name}={value} must be at most {known.at_most:g}")


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


def to_json(value: Any) -> Any:
    """Return plain data of a setting: dataclasses as mappings, tuples and arrays as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if hasattr(value, "tolist"):  # an array or a number of NumPy or JAX
        return np.asarray(value).tolist()
    return value


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
        elif not (name in may_grow and _is_number(old) and _is_number(new) and new >= old):
            found[name] = old, new
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def attribute_help(kind: type) -> dict[str, str]:
    """Return what the docstring of a dataclass says of its attributes, by name, on one line."""
    text = (kind.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.split(r"\n {4,6}(?=\w[\w, ]*:)", "\n" + text.rstrip())
    heads = (entry.partition(":") for entry in entries if ":" in entry)
    return {
        name: " ".join(words.split())
        for names, _, words in heads
        for name in re.split(r",\s*", names.strip())
    }
