"""dish.predict: batches, medians, signs, several devices."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spd_jax import dish
from spd_jax.dish.config import DishConfig
from spd_jax.errors import UserError
from spd_jax.spaces import sigmoid_slope

FAMILY = sigmoid_slope.family(3, 2, 2)
CONFIG = DishConfig(
    inner_steps=3,
    outer_steps=2,
    train_samples=4,
    valid_samples=4,
    ensemble_size=2,
    motif_batch=8,
    inner_learning_rate=0.3,
    outer_learning_rate=0.2,
    decay_steps=(),
)
KEY = jax.random.key(2)
SLOPES = np.linspace(0.3, 2.0, 11).astype(np.float32)
TRUTH = np.array([0.6, 0.9, 0.97, 0.95, 0.94, 0.93, 0.9, 0.88, 0.8, 0.75, 0.7], np.float32)
NEW = np.linspace(0.1, 1.9, 13).astype(np.float32)


@functools.cache
def fitted():
    """Return a dish that has been fitted to six motifs."""
    state = dish.init(KEY, FAMILY, CONFIG)
    return dish.fit(state, FAMILY, CONFIG, SLOPES[:6], TRUTH[:6])[0]


def test_predictions_depend_on_nothing_else_in_the_batch():
    state = fitted()
    expected = dish.predict(state, FAMILY, CONFIG, NEW)
    assert expected.shape == (13,)
    assert expected.dtype == np.float32
    for chunk in (1, 4, 16):
        scores = dish.predict(state, FAMILY, CONFIG, NEW, chunk=chunk)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    more = np.concatenate([NEW, np.full(20, 55, np.float32)])
    scores = dish.predict(state, FAMILY, CONFIG, more)[:13]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_the_score_is_the_median_of_the_members():
    config = dataclasses.replace(CONFIG, ensemble_size=3, outer_steps=0)
    state = dish.init(KEY, FAMILY, config)
    raw = dish.raw_scores(state, FAMILY, config, NEW)
    np.testing.assert_array_equal(dish.predict(state, FAMILY, config, NEW), np.median(raw, axis=0))
    state = dataclasses.replace(
        state,
        sign=jnp.asarray([1.0, -1.0, 1.0]),
        mean=jnp.asarray([0.0, -1.0, 2.0]),
        std=jnp.asarray([1.0, 2.0, 4.0]),
    )
    by_hand = np.stack([raw[0], -(raw[1] + 1) / 2, (raw[2] - 2) / 4])
    scores = dish.predict(state, FAMILY, config, NEW, per_member=True)
    np.testing.assert_allclose(scores, by_hand, rtol=1e-6)
    np.testing.assert_array_equal(
        dish.predict(state, FAMILY, config, NEW), np.median(scores, axis=0)
    )


def test_absolute_pearson_learns_the_sign():
    # No outer steps: the sign alone decides, and it is the one of the correlation.
    config = dataclasses.replace(CONFIG, outer_loss="absolute_pearson", outer_steps=0)
    start = dish.init(KEY, FAMILY, config)
    raw = dish.raw_scores(start, FAMILY, config, SLOPES[:6])
    for sign in (1, -1):
        truth = sign * raw[0]
        state, _ = dish.fit(start, FAMILY, config, SLOPES[:6], truth)
        expected = [np.sign(np.corrcoef(member, truth)[0, 1]) for member in raw]
        np.testing.assert_array_equal(state.sign, expected)
        assert state.sign[0] == sign
        scores = dish.predict(state, FAMILY, config, SLOPES[:6], per_member=True)
        np.testing.assert_array_equal(scores[0].argsort(), truth.argsort())
    plain = dataclasses.replace(config, outer_loss="zscored_mse")
    state, _ = dish.fit(start, FAMILY, plain, SLOPES[:6], -raw[0])
    np.testing.assert_array_equal(state.sign, [1, 1])


def test_motifs_that_all_score_the_same_predict_as_finite_ties():
    for slope in (0.3, 0.7, 1.1):
        archs = np.full(7, slope, np.float32)
        state, _ = dish.fit(dish.init(KEY, FAMILY, CONFIG), FAMILY, CONFIG, archs, TRUTH[:7])
        scores = dish.predict(state, FAMILY, CONFIG, archs, per_member=True)
        np.testing.assert_allclose(scores, 0, atol=1e-3)


SHARDED = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from spd_jax import dish
import conftest
from test_dish_predict import CONFIG, FAMILY, KEY, NEW, SLOPES, TRUTH
mesh = jax.make_mesh((2,), ("motif",), axis_types=(jax.sharding.AxisType.Auto,))
halves = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("motif"))
assert len(jax.devices()) == 2
results = []
for sharding in (None, halves):
    state = dish.init(KEY, FAMILY, CONFIG)
    state, _ = dish.fit(state, FAMILY, CONFIG, SLOPES[:6], TRUTH[:6], sharding=sharding)
    counts = (13, 2, 1)
    scores = [dish.predict(state, FAMILY, CONFIG, NEW[:n], sharding=sharding) for n in counts]
    results.append((np.asarray(state.data.train_inputs), *scores))
for one, other in zip(*results, strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)
print("equal")
"""


def test_motifs_over_two_devices_are_as_on_one(request):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SHARDED],
        cwd=request.path.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "equal\n", done.stderr[-2000:]


@pytest.mark.parametrize("archs", [np.float32(1.0), {}, SLOPES[:0]])
def test_predict_refuses_what_is_no_batch_of_motifs(archs):
    with pytest.raises(UserError, match=r"put one motif axis M in front|at least one"):
        dish.predict(dish.init(KEY, FAMILY, CONFIG), FAMILY, CONFIG, archs)
