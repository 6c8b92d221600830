"""A cost of the user's own: `--cost=module:function`, imported from where Python looks."""

import importlib
import inspect
import typing
from collections.abc import Callable
from typing import Any

import numpy as np

from spd_jax import archs as batches
from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.search.cost_limit import CostOf


def read(text: str | None) -> CostOf | None:
    """Return the cost that a flag names as module:function; None where it names no function.

    The function is called with one arch, or with the name of a cell where its argument is
    annotated `str`, and returns a number.

    Raises:
      UserError: it cannot be imported, is no function of one argument, or fails on a cell.
    """
    if text is None or ":" not in text:
        return None
    function = _imported(text)
    takes_names = _takes_names(text, function)

    def cost(cells: Cells) -> np.ndarray:
        given = cells.names if takes_names else batches.unstack(cells.archs)
        return np.array([_called(text, function, own) for own in given], np.float64)

    return cost


def _imported(text: str) -> Callable[[Any], float]:
    module, _, name = text.partition(":")
    try:
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except Exception as error:
        raise UserError(
            f"--cost={text} cannot be imported ({type(error).__name__}: {error}): give "
            "module:function of a module that Python finds from here"
        ) from error
    if not callable(function):
        raise UserError(f"--cost={text} is no function: give module:function")
    return typing.cast(Callable[[Any], float], function)


def _takes_names(text: str, function: Callable[[Any], float]) -> bool:
    """Return whether a function's argument is annotated as text."""
    try:
        signature = inspect.signature(function, eval_str=True)
        signature.bind("one argument")
    except TypeError as error:
        raise UserError(
            f"--cost={text} cannot be called with one argument ({error}): let it take one arch, or "
            "one cell's name"
        ) from error
    except (ValueError, NameError):  # a builtin without signature; an annotation of its own
        return False
    return next(iter(signature.parameters.values())).annotation is str


def _called(text: str, function: Callable[[Any], float], given: Any) -> float:
    try:
        return float(function(given))
    except Exception as error:
        raise UserError(
            f"--cost={text} failed on {given!r:.80} ({type(error).__name__}: {error}): it is "
            "called with one arch, or with a cell's name where its argument is annotated str, and "
            "returns a number"
        ) from error
