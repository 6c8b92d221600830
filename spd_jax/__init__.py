"""Synthetic Petri Dish architecture search in JAX: `import spd_jax as spd`.

The names below are all that most users need; each lives in a room of its own, which is imported
when the name is first used, so that nobody waits for what he does not need.
"""

import importlib
from typing import TYPE_CHECKING, Any

from spd_jax.version import VERSION

if TYPE_CHECKING:
    from spd_jax import dish as dish
    from spd_jax import dishes as dishes
    from spd_jax import problems as problems
    from spd_jax.archs import Cells as Cells
    from spd_jax.dish import DishConfig as DishConfig
    from spd_jax.dish import DishState as DishState
    from spd_jax.errors import UserError as UserError
    from spd_jax.ground_truth.lookup import LookupTask as LookupTask
    from spd_jax.ground_truth.lookup import TruthTable as TruthTable
    from spd_jax.ground_truth.purchase import GroundTruth as GroundTruth
    from spd_jax.ground_truth.task import BatchTask as BatchTask
    from spd_jax.ground_truth.task import Task as Task
    from spd_jax.ledger import Evaluation as Evaluation
    from spd_jax.ledger import EvaluationKey as EvaluationKey
    from spd_jax.ledger import Ledger as Ledger
    from spd_jax.metrics import kendall_tau as kendall_tau
    from spd_jax.motif import MotifFamily as MotifFamily
    from spd_jax.motif import SearchSpace as SearchSpace
    from spd_jax.problems import Problem as Problem
    from spd_jax.search.cost_limit import WithinCost as WithinCost
    from spd_jax.search.genetic import Genetic as Genetic
    from spd_jax.search.loop import SearchConfig as SearchConfig
    from spd_jax.search.loop import search as run_search  # noqa: F401
    from spd_jax.search.nao import NaoProposer as NaoProposer
    from spd_jax.search.protocol import Proposal as Proposal
    from spd_jax.search.protocol import Proposer as Proposer
    from spd_jax.search.random_search import RandomSearch as RandomSearch
    from spd_jax.search.record import best as best
    from spd_jax.surrogates.compose import Averaged as Averaged
    from spd_jax.surrogates.compose import Stacked as Stacked
    from spd_jax.surrogates.dish_surrogate import DishSurrogate as DishSurrogate
    from spd_jax.surrogates.nao import NaoPredictor as NaoPredictor
    from spd_jax.surrogates.protocol import Surrogate as Surrogate
    from spd_jax.surrogates.regressors import GaussianProcess as GaussianProcess
    from spd_jax.surrogates.regressors import RandomForest as RandomForest

__version__ = VERSION

_ROOMS = {
    "archs": ("Cells",),
    "dish": ("DishConfig", "DishState"),
    "errors": ("UserError",),
    "ground_truth.lookup": ("LookupTask", "TruthTable"),
    "ground_truth.purchase": ("GroundTruth",),
    "ground_truth.task": ("BatchTask", "Task"),
    "ledger": ("Evaluation", "EvaluationKey", "Ledger"),
    "metrics": ("kendall_tau",),
    "motif": ("MotifFamily", "SearchSpace"),
    "problems": ("Problem",),
    "search.cost_limit": ("WithinCost",),
    "search.genetic": ("Genetic",),
    "search.loop": ("SearchConfig", "run_search"),
    "search.nao": ("NaoProposer",),
    "search.protocol": ("Proposal", "Proposer"),
    "search.random_search": ("RandomSearch",),
    "search.record": ("best",),
    "surrogates.compose": ("Averaged", "Stacked"),
    "surrogates.dish_surrogate": ("DishSurrogate",),
    "surrogates.nao": ("NaoPredictor",),
    "surrogates.protocol": ("Surrogate",),
    "surrogates.regressors": ("GaussianProcess", "RandomForest"),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}
_RENAMED = {"run_search": "search"}  # `spd_jax.search` is a room
__all__ = ["__version__", "dish", "dishes", "problems", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a name's room when it is first used (PEP 562)."""
    if name in ("dish", "dishes", "problems"):
        return importlib.import_module(f"spd_jax.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'spd_jax' has no attribute {name!r}")
    room = importlib.import_module(f"spd_jax.{_HOMES[name]}")
    return getattr(room, _RENAMED.get(name, name))


def __dir__() -> list[str]:
    """Return the names that are listed for people."""
    return sorted(__all__)
