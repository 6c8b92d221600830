"""A ground truth that costs nothing and counts what it sells, tiny spaces, an exact surrogate."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import nasbench101_oracle
import nasbench201_oracle
import numpy as np
import rnn_cell_oracle
import toy_widths  # noqa: F401  (registers a problem)

from spd_jax import problems
from spd_jax.archs import Cells
from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation
from spd_jax.motif import SearchSpace
from spd_jax.problems import Problem

TARGET = (0, 3, 1, 1, 0, 2, 2, 0, 3, 1, 0, 0, 1, 2, 3, 0, 1, 1, 2, 0, 0, 3)


def spaces() -> list[Problem]:
    """Return every registered problem; the toy space registers itself when it is imported."""
    return [problems.get(name) for name in problems.names()]


def twin(space: SearchSpace, arch: Any, rng: np.random.Generator) -> Any:
    """Return another spelling of the same motif where the space has any."""
    if space.name.startswith("rnn_cell"):
        return rnn_cell_oracle.renumbered(arch, rng)
    if space.name == "nasbench201":
        return nasbench201_oracle.twin(arch, rng)
    if space.name == "nasbench101":
        return nasbench101_oracle.twin(arch, rng)
    return arch


def closeness(cell):
    """Score a recurrent cell: loci that agree with a target; one cell in eight fails."""
    numbers = [int(word) for word in cell.split()]
    if sum(numbers) % 8 == 0:
        return np.nan
    return float(sum(x == y for x, y in zip(numbers, TARGET, strict=True))) + numbers[1] / 100


@dataclasses.dataclass
class FreeTruth:
    """An evaluator over `score(cell)`; `interrupt_after` evaluations it is killed."""

    score: Callable[[str], float]
    ledger: dict = dataclasses.field(default_factory=dict)
    sold: list = dataclasses.field(default_factory=list)
    interrupt_after: int | None = None

    def evaluate(self, cells, seeds=(0,)):
        return [[self.one(cell, seed) for seed in seeds] for cell in cells]

    def one(self, cell, seed):
        if (cell, seed) not in self.ledger:
            if self.interrupt_after is not None and len(self.sold) >= self.interrupt_after:
                raise KeyboardInterrupt
            self.sold.append(cell)
            score = self.score(cell)
            status = "ok" if np.isfinite(score) else "failed"
            self.ledger[cell, seed] = Evaluation(status, score, score - 100, (score,))
        return self.ledger[cell, seed]


@dataclasses.dataclass(frozen=True)
class Digits:
    """Numbers 0 .. size - 1, as arrays {"x": [M]}; a child of x and y is 1000 x + y."""

    size: int = 24
    name: str = "digits"

    def sample(self, key, count):
        return {"x": jax.random.randint(key, (count,), 0, self.size)}

    def mutate(self, key, archs):
        return archs

    def crossover(self, key, first, second):
        return {"x": 1000 * jnp.asarray(first["x"]) + second["x"]}

    def encode(self, arch):
        return str(int(arch["x"]))

    def decode(self, text):
        if not text.isdecimal():
            raise UserError(f"{text!r} is no number: give digits")
        return {"x": np.int32(text)}

    def canonical(self, arch):
        return arch


def digits(*numbers):
    """Return numbers as cells of `Digits`."""
    return Cells(tuple(map(str, numbers)), {"x": np.array(numbers, np.int32)})


@dataclasses.dataclass
class Linear:
    """A surrogate: least squares on the space's features; remembers what it was fitted on."""

    features: Callable
    seen: list = dataclasses.field(default_factory=list)

    def fit(self, key, archs, scores):
        self.seen.append((jax.random.key_data(key).tolist(), archs, scores))
        finite = np.isfinite(scores)
        vectors = self.features(archs)[finite]
        # Ridge: there are more features than cells.
        gram = vectors @ vectors.T + 0.1 * np.eye(len(vectors))
        mean = scores[finite].mean()
        return Predictor(self.features, vectors.T @ np.linalg.solve(gram, scores[finite] - mean))


@dataclasses.dataclass(frozen=True)
class Predictor:
    features: Callable
    weights: np.ndarray

    def predict(self, archs):
        return self.features(archs) @ self.weights
