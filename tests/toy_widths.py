"""A third search space, registered from outside: four layers of 1..6 units each.

This is all that a space needs for the search comparison, the league, the ledger, the pictures
and the reports: the space, its motif-network, its task, and one `Problem`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from spd_jax import problems
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation
from spd_jax.motif import MotifFamily
from spd_jax.problems import GroundTruthPreset, Problem

LAYERS, WIDEST = 4, 6


@dataclasses.dataclass(frozen=True)
class Widths:
    """The space: an arch is int32 `[4]`."""

    name: str = "toy_widths"

    def sample(self, key, count):
        return np.asarray(jax.random.randint(key, (count, LAYERS), 1, WIDEST + 1))

    def mutate(self, key, archs):
        step = jax.random.randint(key, np.shape(archs), -1, 2)
        return np.clip(np.asarray(archs) + np.asarray(step), 1, WIDEST)

    def crossover(self, key, first, second):
        return np.where(jax.random.bernoulli(key, 0.5, np.shape(first)), first, second)

    def encode(self, arch):
        return "-".join(map(str, np.asarray(arch).tolist()))

    def decode(self, text):
        words = text.split("-")
        if len(words) != LAYERS or not all(word in set("123456") for word in words):
            raise UserError(f"{text!r} is no cell of {self.name}: give four widths as 1-2-3-4")
        return np.array(words, np.int32)

    def canonical(self, arch):
        return np.asarray(arch, np.int32)

    def features(self, archs):
        return np.asarray(archs, float)

    def draw(self, arch, title=""):
        figure = Figure(figsize=(3, 2))
        figure.subplots().bar(range(LAYERS), arch)
        figure.suptitle(title)
        return figure


@functools.cache
def family(hidden):
    """The motif-network: masked units in four layers of `hidden` units."""

    def init(key):
        return {"layers": jax.random.normal(key, (LAYERS, hidden, hidden))}

    def apply(params, widths, inputs):
        def layer(values, now):
            weights, width = now
            used = jnp.arange(hidden) < width * hidden / WIDEST
            return jnp.tanh(values @ weights) * used, None

        return jax.lax.scan(layer, inputs, (params["layers"], widths))[0]

    return MotifFamily(init, apply, (hidden,), (hidden,))


@dataclasses.dataclass(frozen=True)
class Formula:
    """A task that trains nothing; every evaluation is kept in `bought`."""

    budget: int = 4
    unit: str = "score"
    fingerprint: str = "toy-formula-1"
    answers_smaller_budgets: bool = True

    def evaluate(self, cell, seed, budget):
        widths = np.array(cell.split("-"), float)
        first = float(widths[0])
        whole = -float(np.sum((widths - [6.1, 4.2, 3.3, 2.4]) ** 2)) - 0.01 * seed
        curve = [whole - 0.1 * left * first for left in reversed(range(self.budget))]
        test_score = whole - 1 + float(np.sin(widths @ [1, 2, 3, 4]))
        return Evaluation("ok", curve[budget - 1], test_score, tuple(curve[:budget]), 0.1)


TOY = problems.register(
    Problem(
        name="toy_widths",
        space=Widths(),
        family=family,
        dish_presets={
            "best": DishConfig(inner_steps=3, outer_steps=2, train_samples=3, valid_samples=3)
        },
        ground_truths={"formula": GroundTruthPreset(lambda data, states: Formula(), 4)},
        features=Widths(),
        drawing=Widths(),
    )
)
