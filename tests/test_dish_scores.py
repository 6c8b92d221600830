"""dish.scores inside a user's own jit, vmap and grad; dish.build."""

import dataclasses
import functools
import inspect

import families
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from spd_jax import dish
from spd_jax.dish import inner_loop
from spd_jax.dish.config import DishConfig
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily
from spd_jax.spaces import sigmoid_slope

FAMILY = sigmoid_slope.family(3, 2, 2)
CONFIG = DishConfig(
    inner_steps=5,
    outer_steps=2,
    train_samples=4,
    valid_samples=4,
    ensemble_size=2,
    inner_learning_rate=0.25,
    inner_l2=0.0625,
    decay_steps=(),
)
KEY = jax.random.key(2)
SLOPES = np.linspace(0.3, 2.0, 6).astype(np.float32)
TRUTH = np.array([0.6, 0.9, 0.97, 0.95, 0.94, 0.93])
NEW = np.array([0.2, 0.9, 1.7], np.float32)


@functools.cache
def fitted():
    return dish.fit(dish.init(KEY, FAMILY, CONFIG), FAMILY, CONFIG, SLOPES, TRUTH)[0]


@pytest.mark.parametrize("state", [fitted, lambda: dish.init(KEY, FAMILY, CONFIG)])
def test_scores_are_the_predictions_of_every_member(state):
    expected = dish.predict(state(), FAMILY, CONFIG, NEW, per_member=True)
    scores = dish.scores(state(), FAMILY, CONFIG, NEW)
    assert isinstance(scores, jax.Array)
    assert scores.shape == (2, 3)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_scores_in_a_function_of_ones_own_that_is_compiled():
    @jax.jit
    def spread(state, config, archs):
        return jnp.ptp(dish.scores(state, FAMILY, config, archs), axis=1)

    expected = np.ptp(dish.predict(fitted(), FAMILY, CONFIG, NEW, per_member=True), axis=1)
    np.testing.assert_allclose(spread(fitted(), CONFIG, NEW), expected, rtol=1e-4)


def test_scores_are_mapped_over_batches_of_archs():
    batches = np.stack([SLOPES[:3], SLOPES[3:]])
    by_batch = jax.vmap(lambda archs: dish.scores(fitted(), FAMILY, CONFIG, archs))(batches)
    for scores, archs in zip(by_batch, batches, strict=True):
        expected = dish.predict(fitted(), FAMILY, CONFIG, archs, per_member=True)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


SETTINGS = {
    **{remat: {"remat": remat} for remat in ("none", "step", "nested")},
    "auto-truncated": {"gradient": "truncated", "truncation": 2},
    "evaluation-only": {"gradient": "evaluation_only", "remat": "nested"},
    "minibatches": {"inner_batch_size": 2, "inner_metric": "true_class_probability"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_derivatives_in_archs_and_inner_rates_are_those_of_differences(settings):
    config = dataclasses.replace(CONFIG, **settings)
    state = fitted()

    def total(archs, rates):
        now = dataclasses.replace(config, inner_learning_rate=rates[0], inner_l2=rates[1])
        return jnp.sum(jnp.asarray([[1.0], [0.5]]) * dish.scores(state, FAMILY, now, archs))

    with jax.enable_x64(True):
        state = jax.tree.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, state)
        archs, rates = jnp.asarray(NEW, float), jnp.asarray([0.25, 0.0625])

        def derivatives(archs, rates):
            rate_alone = jax.grad(lambda rate: total(archs, rates.at[0].set(rate)))(rates[0])
            return jax.grad(total, (0, 1))(archs, rates), rate_alone

        function = jax.jit(total)
        gradient, alone = jax.jit(derivatives)(archs, rates)
        by_arch = oracle.central_differences(lambda x: function(x, rates), np.asarray(archs))
        by_rate = oracle.central_differences(lambda x: function(archs, x), np.asarray(rates))
    np.testing.assert_allclose(gradient[0], by_arch, rtol=1e-6)
    np.testing.assert_allclose(gradient[1], by_rate, rtol=1e-5)
    assert np.abs(by_arch).min() > 1e-3
    assert np.abs(by_rate).min() > 1e-3
    assert float(alone) == pytest.approx(by_rate[0], rel=1e-6)


def test_derivatives_of_a_batch_are_mapped():
    def total(archs):
        return jnp.sum(dish.scores(fitted(), FAMILY, CONFIG, archs))

    batches = np.stack([SLOPES[:3], SLOPES[3:]])
    mapped = jax.jit(jax.vmap(jax.grad(total)))(batches)
    alone = np.stack([jax.grad(total)(archs) for archs in batches])
    np.testing.assert_allclose(mapped, alone, rtol=1e-3, atol=1e-4)


def switched(params, arch, inputs):
    """Be a motif with a whole number in its arch: which of two slopes holds."""
    slope = jnp.stack([arch["slope"], 2 * arch["slope"]])[arch["which"]]
    return FAMILY.apply(params, slope, inputs)


@pytest.mark.parametrize("remat", ["none", "step", "nested"])
def test_only_the_float_arrays_of_an_arch_have_derivatives(remat):
    family = MotifFamily(FAMILY.init, switched, (3,), (2,))
    config = dataclasses.replace(CONFIG, remat=remat)

    def total(archs, family=family):
        return jnp.sum(dish.scores(fitted(), family, config, archs))

    archs = {"slope": NEW, "which": np.array([0, 1, 1])}
    gradient = jax.grad(total, allow_int=True)(archs)
    assert gradient["which"].dtype == jax.dtypes.float0
    factor = 1 + archs["which"]
    expected = factor * jax.grad(functools.partial(total, family=FAMILY))(factor * NEW)
    np.testing.assert_allclose(gradient["slope"], expected, rtol=1e-3, atol=1e-4)


def test_a_fit_gathers_no_cotangent_of_archs_and_rates():
    """The scan back carries u, the carry's cotangent and the samples', as asked for: no more."""

    def carried(*differentiated):
        def score(train_inputs, slope, rate):
            now = dataclasses.replace(CONFIG, inner_learning_rate=rate)
            data = one.data._replace(train_inputs=train_inputs)
            return inner_loop.score(FAMILY, now, one.params, slope, data, KEY)

        one = jax.tree.map(lambda x: x[0] if x.ndim else x, dish.init(KEY, FAMILY, CONFIG))
        args = (one.data.train_inputs, jnp.float32(0.7), jnp.float32(0.25))
        jaxpr = jax.make_jaxpr(jax.grad(score, differentiated))(*args)
        # It stacks nothing, so that what it returns is what it carries.
        return [len(e.outvars) for e in jaxpr.eqns if e.primitive.name == "scan"][-1]

    u_and_carry = 4
    assert carried(0) == u_and_carry + 1
    assert carried(1) == u_and_carry + 1
    assert carried(0, 1, 2) == u_and_carry + 3


def test_an_exploding_motif_scores_minus_infinity_and_spoils_no_other_derivative():
    family = families.linear()
    config = dataclasses.replace(CONFIG, inner_loss="squared_error")
    state = dish.init(KEY, family, config)
    archs = np.array([0.5, 1e30, 1.4], np.float32)

    def total(archs):
        scores = dish.scores(state, family, config, archs)
        return jnp.sum(jnp.where(jnp.isfinite(scores), scores, 0)), scores

    gradient, scores = jax.grad(total, has_aux=True)(archs)
    np.testing.assert_array_equal(scores[:, 1], -np.inf)
    alone = jax.grad(lambda archs: total(archs)[0])(archs[[0, 2]])
    np.testing.assert_allclose(gradient[jnp.asarray([0, 2])], alone, rtol=1e-4)


def test_nothing_is_traced_again_for_new_archs_rates_or_data():
    counted = families.Counted()
    state = dish.init(KEY, counted.family, CONFIG)
    score = jax.jit(lambda state, config, archs: dish.scores(state, counted.family, config, archs))
    for function in (functools.partial(dish.scores, family=counted.family), score):
        named = {} if function is score else {"family": counted.family}

        def call(state, config, archs, function=function, named=named):
            return function(state, config=config, archs=archs, **named)

        call(state, CONFIG, NEW)
        traces = counted.traces
        call(state, dataclasses.replace(CONFIG, inner_l2=0.5, inner_learning_rate=0.1), NEW + 1)
        call(dish.init(jax.random.key(9), counted.family, CONFIG), CONFIG, NEW)
        assert counted.traces == traces
    call(state, CONFIG, SLOPES)
    assert counted.traces > traces  # the count does count


# build


def test_a_built_dish_is_the_functions_with_family_and_settings_bound():
    built = dish.build(FAMILY, CONFIG)
    assert built._fields == ("init", "step", "fit", "scores", "predict")
    state, info = built.step(built.init(KEY), SLOPES, TRUTH, weights=np.ones(6))
    expected, expected_info = dish.outer_step(
        dish.init(KEY, FAMILY, CONFIG), FAMILY, CONFIG, SLOPES, TRUTH, weights=np.ones(6)
    )
    np.testing.assert_array_equal(state.data.train_inputs, expected.data.train_inputs)
    np.testing.assert_array_equal(info.loss, expected_info.loss)
    state, report = built.fit(built.init(KEY), SLOPES, TRUTH)
    np.testing.assert_array_equal(state.data.train_inputs, fitted().data.train_inputs)
    assert report.stop_step == 2
    predictions = built.predict(state, NEW, per_member=True)
    np.testing.assert_array_equal(
        predictions, dish.predict(fitted(), FAMILY, CONFIG, NEW, per_member=True)
    )
    np.testing.assert_array_equal(
        jax.jit(built.scores)(state, NEW), dish.scores(state, FAMILY, CONFIG, NEW)
    )


def test_the_bound_functions_take_what_the_plain_ones_take():
    built = dish.build(FAMILY, CONFIG)
    for bound, plain in zip(
        built, (dish.init, dish.outer_step, dish.fit, dish.scores, dish.predict), strict=True
    ):
        positional = [
            name
            for name, parameter in inspect.signature(plain).parameters.items()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            and name not in ("family", "config")
        ]
        found = [name for name in inspect.signature(bound).parameters if name != "options"]
        assert found == positional


def test_build_checks_its_settings():
    with pytest.raises(UserError, match=r"inner_steps=2\.5 must be a whole number"):
        dish.build(FAMILY, dataclasses.replace(CONFIG, inner_steps=2.5))
