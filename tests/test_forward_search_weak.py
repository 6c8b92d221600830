"""Weak learners learn their parent's gradient (equation 8) and leave the parent alone."""

import functools

import forward_networks as networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spd_jax.forward_search import scope as scope_lib
from spd_jax.forward_search import selection, training, weak
from spd_jax.forward_search.arch import Edge
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

    def joint(weights, averages, slopes):
        """Return sum_k <g_k, x_c,k(theta)>, from the x_c that the growth hands on."""
        seen = []

        class Spy(Growth):
            def attach(self, x, x_c, soft):
                seen.append(x_c)
                return x

        scope = Scope(weights, averages, True, jax.random.key(0))
        if arch.search != "rnn":
            model.loss(scope, arch, batch, Spy(slots))
            return sum(jnp.sum(g * x_c) for g, x_c in zip(slopes.values(), seen, strict=True))
        state = jnp.zeros((2, 3))  # the recurrent loop by hand: k is the step
        for tokens in batch.inputs:
            x = weights["embedding"][tokens]
            state = _Cell(scope, model.net, arch, x, state).end(Spy(slots))
        return jnp.sum(slopes["cell0"] * jnp.stack(seen))

    @functools.partial(jax.jit, compiler_options=networks.FAST)
    def everything(weights, averages, taps):
        without = losses(model, arch, batch, None)
        with_all = losses(model, arch, batch, Growth(slots))
        own = {path: array for path, array in weights.items() if path in plain}
        value, (parent, slopes) = jax.value_and_grad(
            lambda w, t: without(w, averages, t), argnums=(0, 1)
        )(own, taps)
        weak_value, gradient = jax.value_and_grad(with_all)(weights, averages, {})
        return {
            "plain": value, "weak": weak_value, "parent": parent, "gradient": gradient,
            "equation 8": jax.grad(joint)(weights, averages, slopes),
        }  # fmt: skip

    return plain, everything(weights, averages, taps)


def test_the_forward_pass_is_that_of_the_parent(case):
    _, found = case
    assert found["plain"] == found["weak"]


def test_the_parents_gradient_is_that_without_candidates(case):
    plain, found = case
    for path in plain:
        np.testing.assert_allclose(
            found["gradient"][path], found["parent"][path], rtol=1e-10, atol=1e-14
        )
    assert any(np.any(found["parent"][path]) for path in plain)


def test_candidates_descend_along_the_parents_gradient(case):
    """Equation 8: d/d theta of sum_k <g_k, x_c,k(theta)>, g_k = dL/dx_k without candidates.

    In a recurrent net k is the step, and g_k goes back through all later ones.
    """
    plain, found = case
    candidates = set(found["gradient"]) - plain
    assert any(path.startswith("alpha/") for path in candidates)
    for path in candidates:
        np.testing.assert_allclose(
            found["gradient"][path], found["equation 8"][path], rtol=1e-10, atol=1e-15
        )
        if path.endswith(("pointwise", "depthwise", "kernel")) or path.startswith("alpha/"):
            assert np.any(found["gradient"][path]), path


def steps_of(name, slots, breaking=()):
    """Take 20 steps; the weights of paths that begin with one of `breaking` are infinite."""
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
    weights, averages = networks.drawn(model, arch, slots, dtype=np.float64)
    for path in weights:
        if path.startswith(tuple(breaking)):
            weights[path] = jnp.full_like(weights[path], jnp.inf)
    state, _ = training.train_steps(
        training.start(weights, averages, optimiser), data, index, jax.random.key(1), schedule,
        model=model, arch=arch, slots=slots, optimiser=optimiser,
    )  # fmt: skip
    return state


@pytest.fixture(scope="module")
def alone():
    """Return a function that trains a network without candidates."""
    return functools.cache(lambda name: steps_of(name, ()))


def check_same_parent(state, alone):
    for part in ("weights", "averages"):
        for path, own in getattr(alone, part).items():
            found = getattr(state, part)[path]
            np.testing.assert_allclose(found, own, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["cell", "macro", "rnn"])
def test_many_steps_with_and_without_candidates_leave_the_same_parent(alone, name):
    model, arch, _ = networks.CASES[name]
    state, parent = steps_of(name, arch.slots), alone(name)
    check_same_parent(state, parent)
    start, _ = networks.drawn(model, arch, dtype=np.float64)
    assert (
        max(float(np.abs(own - start[path]).max()) for path, own in parent.weights.items()) > 1e-3
    )
    assert all(np.any(sums) for sums in state.signals.values())


BROKEN = {"cell": Edge(0, "sep3"), "rnn": Edge(2, "relu")}


@pytest.mark.parametrize("name", list(BROKEN))
def test_an_infinite_candidate_spoils_neither_its_parent_nor_the_others(alone, name):
    model, arch, _ = networks.CASES[name]
    slot, edge = arch.slots[0], BROKEN[name]
    path, place = f"cell0/learner1/{edge.input}:{edge.op}/", arch.candidates(slot).index(edge)
    state = steps_of(name, arch.slots, (path,))
    check_same_parent(state, alone(name))
    start, _ = networks.drawn(model, arch, arch.slots, dtype=np.float64)
    others = [own for own in state.weights if not own.startswith(path)]
    assert all(np.isfinite(state.weights[own]).all() for own in others)
    learned = np.abs(state.weights[f"alpha/{slot}"] - start[f"alpha/{slot}"])
    assert learned[place] == 0
    assert np.all(np.delete(learned, place) > 1e-6)
    scores = selection.scores_of(
        {slot: state.weights[f"alpha/{slot}"]}, {slot: state.signals[slot]}, STEPS
    )
    for own in scores.values():
        assert np.flatnonzero(~np.isfinite(own[slot])) == [place]


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
