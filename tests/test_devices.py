"""What the device decides: products in full precision, and motifs in one program."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from spd_jax import dish, problems
from spd_jax.dish import devices

HIGHEST = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
FAMILIES = ("sigmoid_slope", "rnn_cell", "nasbench201")


def equations(jaxpr):
    """Return all equations of a traced function, those of its loops and branches included."""
    found = list(jaxpr.eqns)
    for inner in devices.nested(jaxpr):
        found += equations(inner)
    return found


def products(function, *args):
    """Return the precision of every matrix product and convolution of a traced function."""
    return [
        equation.params["precision"]
        for equation in equations(jax.make_jaxpr(function)(*args).jaxpr)
        if equation.primitive.name in ("dot_general", "conv_general_dilated")
    ]


def tiny(name):
    """Return family, settings, an untrained dish and two motifs of a problem."""
    problem = problems.get(name)
    family, config = problem.family(problem.hidden_size), problem.dish_presets["best"]
    samples = {"train_samples": 10, "valid_samples": 10, "inner_batch_size": 0, "init_scale": 1.0}
    config = dataclasses.replace(config, inner_steps=2, ensemble_size=1, **samples)
    config = dataclasses.replace(config, inner_learning_rate=0.1)
    archs = problem.space.sample(jax.random.key(1), 2)
    return family, config, dish.init(jax.random.key(0), family, config), archs


@pytest.mark.parametrize("name", FAMILIES)
def test_every_product_of_a_dish_is_in_full_precision(name):
    family, config, state, archs = tiny(name)
    for function in (
        lambda state: dish.scores(state, family, config, archs),
        lambda state: dish.outer_step(state, family, config, archs, jnp.array([0.0, 1.0])),
    ):
        found = products(function, state)
        assert found
        assert set(found) == {HIGHEST}


def test_the_inner_training_is_in_full_precision_in_a_users_grad_too():
    family, config, state, archs = tiny("sigmoid_slope")

    def total(data):
        return dish.scores(dataclasses.replace(state, data=data), family, config, archs).sum()

    assert set(products(jax.grad(total), state.data)) == {HIGHEST}


def test_a_product_outside_has_the_precision_of_the_user():
    assert products(jnp.dot, jnp.ones(3), jnp.ones(3)) == [None]


def test_computed_bytes_count_each_nested_result_once():
    def function(x):
        return jax.lax.scan(lambda c, _: (c * 2, c), x + 1, None, length=5)

    x = jnp.ones(3, jnp.float32)
    # x + 1; the scan's results [3] and [5, 3]; c * 2 inside.
    assert devices.computed_bytes(function, x) == 4 * (3 + 3 + 15 + 3)


def test_the_bytes_of_a_dish_are_those_of_its_members_and_motifs():
    family, config, state, archs = tiny("sigmoid_slope")
    twice = dataclasses.replace(config, ensemble_size=2)
    sizes = [
        devices.computed_bytes(lambda part: dish.scores(state, family, own, part), archs)  # noqa: B023
        for own, state in ((config, state), (twice, dish.init(jax.random.key(0), family, twice)))
    ]
    # Per motif and step at least weights, gradient and two moments, in float32.
    assert sizes[0] > 2 * config.inner_steps * 4 * 4 * sum(
        map(jnp.size, jax.tree.leaves(state.params))
    )
    assert 1.8 < sizes[1] / sizes[0] <= 2


@pytest.mark.parametrize(
    ("memory", "expected"), [(4 * 1000 * 12, 512), (10**15, devices.LARGEST_CHUNK), (1, 1)]
)
def test_an_accelerators_chunk_follows_its_memory(monkeypatch, memory, expected):
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": memory})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert devices.chunk(lambda x: x * 2, jnp.ones((1, 3), jnp.float32)) == expected


def test_a_cpus_chunk_fits_the_cache():
    assert devices.chunk(lambda x: x * 2, jnp.ones((1, 3))) == devices.CPU_CHUNK


def test_predict_is_the_same_in_chunks_of_any_size():
    family, config, state, _ = tiny("sigmoid_slope")
    archs = jnp.linspace(0.1, 2.0, 40)
    whole = dish.predict(state, family, config, archs)
    assert jnp.array_equal(whole, dish.predict(state, family, config, archs, chunk=64))
