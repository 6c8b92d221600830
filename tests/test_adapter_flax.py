"""A module of flax as motif-network: the same numbers as written by hand, batch norm, equality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from spd_jax import dish
from spd_jax.adapters import flax as adapter
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily

CONFIG = DishConfig(inner_steps=3, outer_steps=2, train_samples=4, valid_samples=4, ensemble_size=2)
SLOPES = np.linspace(0.1, 2.0, 8, dtype=np.float32)
SCORES = np.cos(2 * SLOPES)


class Linen(linen.Module):
    hidden: int
    normalised: bool = False

    @linen.compact
    def __call__(self, inputs, slope):
        hidden = linen.Dense(self.hidden)(inputs)
        if self.normalised:
            hidden = linen.BatchNorm(use_running_average=False)(hidden)
        return linen.Dense(2)(jax.nn.sigmoid(slope * hidden))


class Nnx(nnx.Module):
    def __init__(self, rngs, normalised=False):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs) if normalised else None
        self.second = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, inputs, slope):
        hidden = self.first(inputs)
        if self.norm is not None:
            hidden = self.norm(hidden)
        return self.second(jax.nn.sigmoid(slope * hidden))


def normalised_nnx(rngs):
    return Nnx(rngs, normalised=True)


def by_hand(init, names):
    """The same network in plain jax, from the weights that `init` draws."""

    def apply(params, slope, inputs):
        first, second = (names(params)[layer] for layer in (0, 1))
        hidden = jax.nn.sigmoid(slope * (inputs @ first["kernel"] + first["bias"]))
        return hidden @ second["kernel"] + second["bias"]

    return MotifFamily(init, apply, (3,), (2,))


def layers_of_linen(params):
    return params["Dense_0"], params["Dense_1"]


def layers_of_nnx(params):  # in the order of jax.tree: by name
    return [
        {"bias": bias, "kernel": kernel}
        for bias, kernel in zip(params[::2], params[1::2], strict=True)
    ]


FAMILIES = {
    "linen": (adapter.of_linen(Linen(4), SLOPES[0], (3,)), layers_of_linen),
    "nnx": (adapter.of_nnx(Nnx, SLOPES[0], (3,)), layers_of_nnx),
}


def learned(family):
    petri = dish.build(family, CONFIG)
    state, _ = petri.fit(petri.init(jax.random.key(3)), SLOPES, SCORES)
    return petri.predict(state, SLOPES, per_member=True)


@pytest.mark.parametrize(("family", "names"), FAMILIES.values(), ids=FAMILIES)
def test_predictions_are_those_of_the_network_written_by_hand(family, names):
    assert (family.input_shape, family.output_shape, family.labels) == ((3,), (2,), "bernoulli")
    found = learned(family)
    assert np.ptp(found) > 0.1
    expected = learned(by_hand(family.init, names))  # older versions differ in the last bit
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


NORMALISED = {
    "linen": adapter.of_linen(Linen(4, normalised=True), SLOPES[0], (3,)),
    "nnx": adapter.of_nnx(normalised_nnx, SLOPES[0], (3,)),
}


@pytest.mark.parametrize("family", NORMALISED.values(), ids=NORMALISED)
def test_batch_normalisation_takes_the_statistics_of_the_batch(family):
    params = family.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (5, 3))
    outputs = jax.jit(family.apply)(params, 1.0, inputs)
    moved = jax.jit(family.apply)(params, 1.0, inputs + 10)  # the shift is normalised away
    np.testing.assert_allclose(outputs, moved, atol=1e-4)
    assert np.ptp(outputs) > 0.01


def test_equal_arguments_give_equal_families_so_that_nothing_compiles_anew():
    for again, (family, _) in (
        (adapter.of_linen(Linen(4), np.float32(7), (3,)), FAMILIES["linen"]),
        (adapter.of_nnx(Nnx, np.float32(7), (3,)), FAMILIES["nnx"]),
    ):
        assert again == family
        assert hash(again) == hash(family)
    assert adapter.of_linen(Linen(5), SLOPES[0], (3,)) != FAMILIES["linen"][0]
    assert adapter.of_nnx(normalised_nnx, SLOPES[0], (3,)) != FAMILIES["nnx"][0]


class Whole(linen.Module):
    @linen.compact
    def __call__(self, inputs, arch):
        return jnp.sum(linen.Dense(2)(inputs)) * arch["width"]


def test_a_module_that_mixes_its_samples_up_is_refused():
    with pytest.raises(UserError, match="for 2 samples: return one array, an output for each"):
        adapter.of_linen(Whole(), {"width": np.int32(3)}, (3,))
