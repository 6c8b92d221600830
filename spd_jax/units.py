"""In which unit scores are shown to people.

Inside the program every score is higher-is-better. A unit turns scores into what the field
prints: accuracies stay, negative cross-entropies become bits or perplexities.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from spd_jax.errors import check_name

LARGEST_SCORE = 1e100  # or its opposite: the square of a larger one would soon be infinite


@dataclasses.dataclass(frozen=True)
class Unit:
    """How scores are shown.

    Attributes:
      name: what stands on an axis.
      convert: from scores, any shape, to what is shown.
      higher_is_better: of what is shown.
    """

    name: str
    convert: Callable[[np.ndarray], np.ndarray]
    higher_is_better: bool


UNITS = {
    unit.name: unit
    for unit in (
        Unit("score", lambda score: score, True),
        Unit("accuracy", lambda score: score, True),
        # The scores of language models are negative cross-entropies in nats per token.
        Unit("bits per character", lambda score: -score / math.log(2), False),
        Unit("perplexity", lambda score: np.exp(np.minimum(-score, 700.0)), False),
    )
}


def named(name: str) -> Unit:
    """Return the unit of a name.

    Raises:
      UserError: there is none.
    """
    check_name("unit", name, UNITS)
    return UNITS[name]


def in_unit(scores: ArrayLike, name: str) -> np.ndarray:
    """Return scores of any shape, higher is better, as float64 in a unit of `UNITS`.

    Bits per character are nats / ln 2, perplexity is exp(nats).

    Raises:
      UserError: an unknown unit.

    >>> in_unit([-1.0, float("nan")], "bits per character").round(3).tolist()
    [1.443, nan]
    """
    return named(name).convert(np.asarray(scores, float))
