"""Weak learners learn their parent's gradient (equation 8) and leave the parent alone."""

import functools

import forward_networks as networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spd_jax.forward_search import scope as scope_lib
from spd_jax.forward_search import training, weak
from spd_jax.forward_search.recurrent_net import _Cell
from spd_jax.forward_search.scope import Scope
from spd_jax.forward_search.weak import Growth

STEPS = 20


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def losses(model, arch, batch, growth):
    """Return the loss as a function of weights, averages and taps, with what was computed."""

    def loss(weights, averages, taps):
        scope = Scope(weights, averages, True, jax.random.key(0), taps=taps)
        return model.loss(scope, arch, batch, growth)

    return loss


def tap_shapes(arch, batch):
    """Return the shapes of all cells' ends."""
    if arch.search == "rnn":
        return {"cell0": (3, 2, 3)}
    return {"cell0": (6, 4, 4, 2), "cell1": (6, 2, 2, 4)}


@pytest.fixture(scope="module", params=list(networks.CASES))
def case(request):
    """Return gradients of one network, with candidates and without, all of one program."""
    model, arch, make = networks.CASES[request.param]
    batch = make(dtype=np.float64)
    slots = arch.slots
    weights, averages = networks.drawn(model, arch, slots, dtype=np.float64)
    plain = set(training.recorded(model, arch).weights)
    taps = {name: jnp.zeros(shape) for name, shape in tap_shapes(arch, batch).items()}

    def joint(weights, averages, taps):
        """Return sum_k <g_k, x_c,k(theta)>, from the x_c that the growth hands on."""
        seen = {}

        class Spy(Growth):
            def attach(self, x, x_c, soft):
                place = f"cell{len(seen)}"
                seen[place] = x_c
                return x

        growth = Spy(slots)
        scope = Scope(weights, averages, True, jax.random.key(0))
        model.loss(scope, arch, batch, growth)
        return sum(jnp.sum(taps[name] * x_c) for name, x_c in seen.items())

    @functools.partial(jax.jit, compiler_options=networks.FAST)
    def everything(weights, averages, taps):
        without = losses(model, arch, batch, None)
        with_all = losses(model, arch, batch, Growth(slots))
        own = {path: array for path, array in weights.items() if path in plain}
        value, (parent, slopes) = jax.value_and_grad(
            lambda w, t: without(w, averages, t), argnums=(0, 1)
        )(own, taps)
        weak_value, gradient = jax.value_and_grad(with_all)(weights, averages, {})
        found = {"plain": value, "weak": weak_value, "parent": parent, "gradient": gradient}
        if arch.search != "rnn":  # inside the recurrent loop nothing can be looked at so
            found["equation 8"] = jax.grad(joint)(weights, averages, slopes)
        return found | {"slopes": slopes}

    return request.param, plain, everything(weights, averages, taps)


def test_the_forward_pass_is_that_of_the_parent(case):
    _, _, found = case
    assert found["plain"] == found["weak"]


def test_the_parents_gradient_is_that_without_candidates(case):
    _, plain, found = case
    for path in plain:
        np.testing.assert_allclose(
            found["gradient"][path], found["parent"][path], rtol=1e-10, atol=1e-14
        )
    assert any(np.any(found["parent"][path]) for path in plain)


def test_candidates_descend_along_the_parents_gradient(case):
    """Equation 8: d/d theta of sum_k <g_k, x_c,k(theta)>, g_k the gradient without candidates."""
    name, plain, found = case
    if name == "rnn":
        pytest.skip("see test_a_recurrent_candidate_obeys_equation_8")
    candidates = set(found["gradient"]) - plain
    assert any(path.startswith("alpha/") for path in candidates)
    for path in candidates:
        np.testing.assert_allclose(
            found["gradient"][path], found["equation 8"][path], rtol=1e-10, atol=1e-15
        )
        if path.endswith(("pointwise", "depthwise")) or path.startswith("alpha/"):
            assert np.any(found["gradient"][path]), path


def test_a_recurrent_candidate_obeys_equation_8():
    """x_c is a function of the parent's values alone, so that it can be computed outside."""
    model, arch, make = networks.CASES["rnn"]
    batch = make()
    weights, averages = networks.drawn(model, arch, arch.slots, dtype=np.float64)
    edges = arch.candidates("recurrent")
    fixed = np.random.default_rng(1).normal(size=(3, 2, 3))

    def inner(weights):
        """Return sum_t <fixed_t, x_c,t>, whose gradient equation 8 gives for g = fixed."""
        total, state = 0.0, jnp.zeros((2, 3))
        outputs = []

        class Spy(Growth):
            def attach(self, x, x_c, soft):
                outputs.append(x_c)
                return x

        for t in range(3):
            x = weights["embedding"][batch.inputs[t]]
            scope = Scope(weights, averages, True)
            state = jax.lax.stop_gradient(
                _Cell(scope, model.net, arch, x, state).end(Spy(("recurrent",)))
            )
            total = total + jnp.sum(fixed[t] * outputs[-1])
        return total

    def outer(weights):
        """Return the same through the recurrent loop: a loss that is linear in the states."""
        scope = Scope(weights, averages, True)
        state = jnp.zeros((2, 3))

        def step(state, now):
            tokens, direction = now
            x = weights["embedding"][tokens]
            end = _Cell(scope, model.net, arch, x, state).end(Growth(("recurrent",)))
            return jax.lax.stop_gradient(end), jnp.sum(direction * end)

        return jnp.sum(jax.lax.scan(step, state, (batch.inputs, jnp.asarray(fixed)))[1])

    plain = set(training.recorded(model, arch).weights)
    mine, theirs = jax.jit(jax.grad(outer))(weights), jax.grad(inner)(weights)
    assert len(edges) == weights["alpha/recurrent"].size == 22
    for path in set(weights) - plain:
        np.testing.assert_allclose(mine[path], theirs[path], rtol=1e-10, atol=1e-15)
    assert np.all(mine["alpha/recurrent"])


@pytest.mark.parametrize("name", ["cell", "rnn"])
def test_many_steps_with_and_without_candidates_leave_the_same_parent(name):
    model, arch, make = networks.CASES[name]
    batch = make(dtype=np.float64)
    optimiser = training.Optimiser(clip=0.05, decay=1e-2)  # clips at every step
    index = np.zeros((STEPS,), np.int32) if name == "rnn" else np.tile(np.arange(6), (STEPS, 1))
    data = batch
    if name == "rnn":
        data = type(batch)(batch.inputs[None], batch.targets[None], batch.first)
    schedule = training.Schedule(
        training.rates("cosine", 0.1, 1, STEPS), np.zeros(STEPS, np.float32), 0.01, 1.0
    )
    ends = []
    for slots in ((), arch.slots):
        weights, averages = networks.drawn(model, arch, slots, dtype=np.float64)
        state = training.start(weights, averages, optimiser)
        state, _ = training.train_steps(
            state, data, index, jax.random.key(1), schedule, model=model, arch=arch, slots=slots,
            optimiser=optimiser,
        )  # fmt: skip
        ends.append(state)
    start, _ = networks.drawn(model, arch, dtype=np.float64)
    moved = 0.0
    for path, alone in ends[0].weights.items():
        np.testing.assert_allclose(ends[1].weights[path], alone, rtol=1e-9, atol=1e-11)
        moved = max(moved, float(np.abs(alone - start[path]).max()))
    assert moved > 1e-3
    for path, alone in ends[0].averages.items():
        np.testing.assert_allclose(ends[1].averages[path], alone, rtol=1e-9, atol=1e-11)
    assert all(np.any(sums) for sums in ends[1].signals.values())


def test_stopping_the_forward_pass_keeps_an_infinity_out():
    x = jnp.array([1.0, jnp.inf, jnp.nan])
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(weak.stop_forward(x) * 3.0))(x)
    assert value == 0
    np.testing.assert_array_equal(gradient, [3.0, 3.0, 3.0])
    assert not np.isfinite(x - jax.lax.stop_gradient(x)).all()  # what the paper writes


def test_without_stops_the_parent_notices_its_candidates():
    model, arch, make = networks.CASES["rnn"]
    batch = make()
    gradients = []
    for coupling in weak.COUPLINGS:
        weights, averages = networks.drawn(model, arch, arch.slots, coupling=coupling, dtype=float)
        growth = Growth(arch.slots, 1.0, coupling)
        loss = losses(model, arch, batch, growth)
        gradients.append(jax.jit(jax.grad(loss))(weights, averages, {}))
    stopped, open_, soft = (own["cell0/node0/kernel"] for own in gradients)
    assert np.abs(stopped - open_).max() > 1e-6
    np.testing.assert_allclose(stopped, soft, rtol=1e-10)  # the learnt gate starts at 0
    assert np.any(gradients[2]["gate/cell0"])


def test_the_penalty_is_counted_once_for_a_slot():
    gradient = {"alpha/normal": jnp.array([1.0, 1.0]), "stem/kernel": jnp.array([1.0])}
    weights = {"alpha/normal": jnp.array([2.0, -2.0]), "stem/kernel": jnp.array([3.0])}
    found = training._penalised(gradient, weights, 0.1)
    np.testing.assert_allclose(found["alpha/normal"], [1.1, 0.9])
    np.testing.assert_allclose(found["stem/kernel"], [1.0])


def test_a_seed_draws_each_path_alone():
    one = scope_lib.draw(3, {"a": scope_lib.Spec((4,), "normal")})
    two = scope_lib.draw(
        3, {"b": scope_lib.Spec((2,), "normal"), "a": scope_lib.Spec((4,), "normal")}
    )
    np.testing.assert_array_equal(one["a"], two["a"])
    other = scope_lib.draw(4, {"a": scope_lib.Spec((4,), "normal")})
    assert not np.array_equal(one["a"], other["a"])
