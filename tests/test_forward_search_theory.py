"""The paper's theory: selection by gradient inner products is forward stagewise regression."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search import scope as scope_lib
from spd_jax.forward_search import selection, training, weak
from spd_jax.forward_search.scope import Scope

COLUMNS, ROUNDS, STEP = 14, 60, 0.05
ARCH = arch_lib.seed("cell", 1, 0)  # one slot of 14 candidates: one for each column
EDGES = ARCH.candidates("normal")


class Table(NamedTuple):
    """What the parent says `[N]`, columns `[N, 14]`, and targets `[N]`."""

    offset: Any
    columns: Any
    targets: Any


@dataclasses.dataclass(frozen=True)
class Linear:
    """A model whose parent is a bias, and whose candidates are the columns of a table."""

    kind: str = "squares"
    rows: int = 32

    def example(self):
        shapes = ((self.rows,), (self.rows, COLUMNS), (self.rows,))
        return Table(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))

    def batch(self, data, index, key):
        return jax.tree.map(lambda own: own[index], data)

    def loss(self, scope, arch, batch, growth):
        x = batch.offset + scope.weight("bias", (), "zeros")
        if growth is not None:
            columns = [growth.inlet(batch.columns[:, j]) for j in range(COLUMNS)]
            alpha = scope.weight("alpha/normal", (COLUMNS,), "zeros")
            x = growth.attach(x, weak.joint(alpha, columns), lambda: 0.0)
        if self.kind == "squares":
            return 0.5 * jnp.mean((x - batch.targets) ** 2)
        return jnp.mean(jnp.logaddexp(0.0, -batch.targets * x))


def drawn(seed, kind, rows=200, noise=0.5):
    """Return standardised columns, and targets that depend on a few of them."""
    generator = np.random.default_rng(seed)
    columns = generator.normal(size=(rows, COLUMNS))
    columns += 0.5 * generator.normal(size=(rows, 1))  # they are correlated
    columns = (columns - columns.mean(0)) / columns.std(0)
    coefficients = np.where(np.arange(COLUMNS) % 5 == 2, generator.normal(size=COLUMNS), 0)
    targets = columns @ coefficients + noise * generator.normal(size=rows)
    return columns, np.sign(targets) if kind == "logistic" else targets


def oracle(columns, targets, kind):
    """Return the path of forward stagewise regression: columns chosen, and coefficients.

    Efron et al. (2004), section 1, with the inner product of gradient and column; plain NumPy.
    """
    coefficients, chosen = np.zeros(COLUMNS), []
    for _ in range(ROUNDS):
        prediction = columns @ coefficients
        if kind == "squares":
            gradient = prediction - targets
        else:
            gradient = -targets / (1 + np.exp(targets * prediction))
        products = columns.T @ gradient / len(targets)
        best = int(np.argmax(np.abs(products)))
        coefficients[best] -= STEP * np.sign(products[best])
        chosen.append(best)
    return chosen, coefficients


@pytest.mark.parametrize("kind", ["squares", "logistic"])
def test_growing_by_gradient_inner_products_is_forward_stagewise(kind):
    model = Linear(kind)
    with jax.enable_x64(True):
        columns, targets = drawn(0, kind)
        weights = {"bias": jnp.zeros(()), "alpha/normal": jnp.zeros(COLUMNS)}

        @jax.jit
        def products(offset):
            def loss(weights):
                table = Table(offset, jnp.asarray(columns), jnp.asarray(targets))
                growth = weak.Growth(("normal",))
                return model.loss(Scope(weights, {}, True), ARCH, table, growth)

            return jax.grad(loss)(weights)["alpha/normal"]

        coefficients, chosen = np.zeros(COLUMNS), []
        for _ in range(ROUNDS):
            found = np.asarray(products(jnp.asarray(columns @ coefficients)))
            (edge,) = selection.choose(EDGES, np.abs(found), 1)
            place = EDGES.index(edge)
            coefficients[place] -= STEP * np.sign(found[place])
            chosen.append(place)
    wanted, wanted_coefficients = oracle(columns, targets, kind)
    assert chosen == wanted
    np.testing.assert_allclose(coefficients, wanted_coefficients, atol=1e-12)
    assert len(set(chosen)) >= 3


def trained(seed, kind, columns, targets):
    """Return alpha after a weak training with the search's own optimiser and penalty."""
    model = Linear(kind)
    need = training.recorded(model, ARCH, ("normal",))
    weights = scope_lib.draw(seed, need.weights)
    state = training.start(weights, {}, training.Optimiser())
    generator = np.random.default_rng(seed)
    indices = generator.integers(0, len(targets), (40, model.rows))
    schedule = training.Schedule(
        training.rates("cosine", 0.05, 1, 40), np.zeros(40, np.float32), np.float32(1e-3), 1.0
    )
    table = Table(*(jnp.asarray(x, jnp.float32) for x in (0 * targets, columns, targets)))
    state, _ = training.train_steps(
        state, table, indices, jax.random.key(seed), schedule, model=model, arch=ARCH,
        slots=("normal",), optimiser=training.Optimiser(),
    )  # fmt: skip
    return state


@pytest.mark.parametrize("kind", ["squares", "logistic"])
def test_a_planted_signal_is_ranked_first(kind):
    """Only one column carries signal; |alpha| finds it in at least nine of ten seeds."""
    hits = {"alpha": 0, "gradient": 0, "certain": 0}
    for seed in range(10):
        generator = np.random.default_rng([seed, 7])
        columns = generator.normal(size=(300, COLUMNS))
        planted = int(generator.integers(COLUMNS))
        targets = 0.7 * columns[:, planted] + generator.normal(size=300)
        targets = np.sign(targets) if kind == "logistic" else targets
        state = trained(seed, kind, columns, targets)
        alphas = {"normal": state.weights["alpha/normal"]}
        found = selection.scores_of(alphas, state.signals, 40)
        for name in hits:
            hits[name] += selection.choose(EDGES, found[name]["normal"], 1) == (EDGES[planted],)
    assert min(hits.values()) >= 9


def test_a_steps_alphas_move_along_the_inner_products():
    """Without penalty and momentum, one step is alpha -= rate * <g, column>."""
    columns, targets = drawn(1, "squares", rows=32)
    model, optimiser = Linear("squares"), training.Optimiser(clip=0.0, decay=0.0)
    weights = {"bias": np.zeros((), np.float32), "alpha/normal": np.zeros(COLUMNS, np.float32)}
    table = Table(*(jnp.asarray(x, jnp.float32) for x in (0 * targets, columns, targets)))
    schedule = training.Schedule(np.float32([0.1]), np.float32([0.0]), np.float32(0), 1.0)
    state, losses = training.train_steps(
        training.start(weights, {}, optimiser), table, np.arange(32)[None], jax.random.key(0),
        schedule, model=model, arch=ARCH, slots=("normal",), optimiser=optimiser,
    )  # fmt: skip
    products = columns.T @ -targets / 32
    np.testing.assert_allclose(state.weights["alpha/normal"], -0.1 * products, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.signals["normal"][0], products, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses[0], 0.5 * np.mean(targets**2), rtol=1e-5)
