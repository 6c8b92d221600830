"""One file for each search space, and the one registry of their names.

A new space is registered here (or by `register`, from anywhere), and all studies take it.
"""

from spd_jax.errors import check_name
from spd_jax.problems import activation_slope, nasbench101, nasbench201, rnn_cell, sigmoid_slope
from spd_jax.problems.problem import GroundTruthPreset, Problem
from spd_jax.spaces.rnn_cell import VARIANTS

__all__ = ["GroundTruthPreset", "Problem", "get", "names", "of_space", "register"]

_REGISTRY: dict[str, Problem] = {}


def register(problem: Problem) -> Problem:
    """Make a problem known by its name and by the name of its space; return it."""
    _REGISTRY[problem.name] = problem
    return problem


def names() -> list[str]:
    """Return the names of all problems."""
    return list(_REGISTRY)


def get(name: str) -> Problem:
    """Return the problem of a name.

    Raises:
      UserError: there is none.
    """
    check_name("problem", name, _REGISTRY)
    return _REGISTRY[name]


def of_space(name: str) -> Problem:
    """Return the problem whose space has this name, as ledgers and tables call it.

    Raises:
      UserError: there is none.
    """
    by_space: dict[str, Problem] = {}
    for problem in _REGISTRY.values():
        by_space.setdefault(problem.space.name, problem)
    check_name("space", name, by_space)
    return by_space[name]


register(rnn_cell.problem())
register(sigmoid_slope.problem())
for _variant in VARIANTS:
    if _variant != rnn_cell.VARIANT:
        register(rnn_cell.problem(_variant))
register(nasbench201.problem())
register(nasbench101.problem())
register(activation_slope.problem())
