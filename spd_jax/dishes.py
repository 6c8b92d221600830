"""Dishes that learned before: they ship with the package, and say what they learned from.

What a dish has learned is a few kilobytes of synthetic data. It ranks motifs that it was never
shown, of the problem that it learned on or of one whose motif-network has the same parameters.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np

from spd_jax import files, problems
from spd_jax.axes import Archs
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError, check_name
from spd_jax.surrogates import protocol
from spd_jax.surrogates.dish_surrogate import DishSurrogate, FittedDish

_KIND = "LearnedDish"


@dataclasses.dataclass(frozen=True)
class LearnedDish:
    """A fitted dish and where it comes from.

    Attributes:
      fitted: what predicts.
      problem: name of the problem that it learned on.
      hidden_size: width of its motif-network.
      provenance: plain data for people: the source's table and its identity, the number of its
        motifs, the seed, the commit and the command.
    """

    fitted: FittedDish
    problem: str
    hidden_size: int
    provenance: Mapping[str, Any]

    def predict(self, archs: Archs) -> np.ndarray:
        """Return scores `[M]` float64, higher is better; see `FittedDish.predict`.

        Their unit is that of the scores that were fitted, as `provenance["unit"]` says.
        """
        return self.fitted.predict(archs)

    def save(self, path: protocol.Path) -> None:
        """Write one `.npz`, without pickles."""
        described = {
            "problem": self.problem,
            "hidden_size": self.hidden_size,
            "settings": files.to_json(self.fitted.surrogate.config),
            "provenance": dict(self.provenance),
        }
        text = np.asarray(json.dumps(described))
        arrays = {"dish": protocol.to_bytes(self.fitted.save), "described": text}
        files.save_arrays(path, arrays, kind=_KIND)


def names() -> list[str]:
    """Return the names of the dishes that ship."""
    return sorted(path.stem for path in _folder().glob("*.npz"))


def load(name: str, *, problem: str = "") -> LearnedDish:
    """Return a dish that ships with the package.

    Args:
      name: one of `names()`.
      problem: whose motifs it shall rank; empty: the one that it learned on.

    Raises:
      UserError: there is no such dish or problem, or its motif-network has other parameters.

    >>> names()
    ['sigmoid_slope_fashion_mnist']
    >>> load("sigmoid_slope_fashion_mnist").provenance["source"]
    'fashion_mnist_sigmoid_slope.csv'
    """
    check_name("dish", name, names())
    return read(_folder() / f"{name}.npz", problem=problem)


def read(path: protocol.Path, *, problem: str = "") -> LearnedDish:
    """Return the dish in a file that `LearnedDish.save` wrote.

    Args:
      path: the file.
      problem: as `load`.

    Raises:
      UserError: the file is missing, damaged or something else; and as `load`.
    """
    build = functools.partial(_build, problem=problem)
    return protocol.restore(path, _KIND, build)


def _build(arrays: dict[str, np.ndarray], problem: str) -> LearnedDish:
    described = json.loads(str(arrays["described"]))
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in described["settings"].items()
    }
    config = DishConfig(**settings)
    hidden_size = int(described["hidden_size"])
    family = problems.get(problem or described["problem"]).family(hidden_size)
    surrogate = DishSurrogate(family, config)
    try:
        fitted = protocol.from_bytes(arrays["dish"], surrogate.load, "the dish")
    except UserError as error:
        raise UserError(
            f"its dish does not fit the motif-network of {problem or described['problem']} "
            f"({error}): ask for a problem whose network has the same parameters"
        ) from error
    return LearnedDish(
        fitted, str(described["problem"]), hidden_size, dict(described["provenance"])
    )


def _folder() -> pathlib.Path:
    return pathlib.Path(str(resources.files("spd_jax"))) / "data" / "dishes"
