"""Dishes whose motifs choose operations by `lax.switch`, and dishes of image cells."""

import dataclasses
import functools
import subprocess
import sys

import families
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import optax

from spd_jax import dish
from spd_jax.dish import inner_loop, losses
from spd_jax.dish.config import DishConfig
from spd_jax.spaces.image_network import Skeleton
from spd_jax.spaces.nasbench201 import network

FAMILY = families.branching()
SIDE_BY_SIDE = dataclasses.replace(FAMILY, branching=False)
CONFIG = DishConfig(
    inner_steps=3,
    outer_steps=2,
    train_samples=6,
    valid_samples=6,
    ensemble_size=2,
    motif_batch=8,
    inner_loss="softmax_cross_entropy",
    inner_learning_rate=0.3,
)
KINDS = np.array([0, 1, 2, 2, 1, 0, 1, 2, 0, 1, 1], np.int32)
TRUTH = np.linspace(1, 0, len(KINDS)) ** 2
KEY = jax.random.key(3)
IMAGES = network.family(Skeleton(stacks=1, cells=1, stem=2, image_size=4, classes=3))
IMAGE_CONFIG = dataclasses.replace(
    CONFIG, train_samples=4, valid_samples=4, ensemble_size=1, inner_learning_rate=0.05
)
CELLS = np.array([[3, 1, 2, 4, 3, 2], [1, 3, 0, 2, 4, 1], [0, 0, 0, 1, 0, 0]], np.int32)


def test_one_after_another_is_as_side_by_side():
    results = []
    for family in (FAMILY, SIDE_BY_SIDE):
        state = dish.init(KEY, family, CONFIG)
        state, info = dish.fit(state, family, CONFIG, KINDS[:8], TRUTH[:8])
        scores = dish.predict(state, family, CONFIG, KINDS, per_member=True)
        results.append((state.data.train_inputs, info.loss, info.final_loss, scores))
    for own, other in zip(*results, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)
    assert results[0][3].shape == (2, 11)
    assert np.ptp(results[0][3], axis=1).min() > 0.1


def test_other_motifs_compile_nothing_new():
    state = dish.init(KEY, FAMILY, CONFIG)
    dish.outer_step(state, FAMILY, CONFIG, KINDS[:8], TRUTH[:8])
    dish.raw_scores(state, FAMILY, CONFIG, KINDS[:2])
    before = dish.outer_step._cache_size(), dish.scores._cache_size()
    dish.outer_step(state, FAMILY, CONFIG, KINDS[3:], TRUTH[3:])
    dish.raw_scores(state, FAMILY, CONFIG, KINDS)
    assert (dish.outer_step._cache_size(), dish.scores._cache_size()) == before


TWO_DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from spd_jax import dish
import conftest
from test_dish_branching import CONFIG, FAMILY, KEY, KINDS, TRUTH
mesh = jax.make_mesh((2,), ("motif",), axis_types=(jax.sharding.AxisType.Auto,))
halves = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("motif"))
assert len(jax.devices()) == 2
results = []
for sharding in (None, halves):
    state = dish.init(KEY, FAMILY, CONFIG)
    state, _ = dish.fit(state, FAMILY, CONFIG, KINDS[:7], TRUTH[:7], sharding=sharding)
    scores = dish.predict(state, FAMILY, CONFIG, KINDS, sharding=sharding)
    curves = dish.inner_curves(state, FAMILY, CONFIG, KINDS, every=2, sharding=sharding)
    results.append((np.asarray(state.data.train_inputs), scores, *curves))
for one, other in zip(*results, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
print("equal")
"""


def test_motifs_over_two_devices_are_as_on_one(request):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TWO_DEVICES],
        cwd=request.path.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "equal\n", done.stderr[-2000:]


# Image cells


@functools.cache
def image_state():
    return dish.init(KEY, IMAGES, IMAGE_CONFIG)


def image_member():
    """Return weights and data of the only member."""
    return jax.tree.map(lambda x: x[0], (image_state().params, image_state().data))


def test_cells_are_scored_as_side_by_side_and_as_by_a_python_loop():
    raw = dish.raw_scores(image_state(), IMAGES, IMAGE_CONFIG, CELLS)[0]
    other = dataclasses.replace(IMAGES, branching=False)
    np.testing.assert_allclose(
        raw, dish.raw_scores(image_state(), other, IMAGE_CONFIG, CELLS)[0], rtol=1e-4
    )
    params, data = image_member()

    @jax.jit
    def gradient(params, arch):
        def loss(params):
            outputs = IMAGES.apply(params, arch, data.train_inputs)
            squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
            fit = losses.softmax_cross_entropy(outputs, data.train_labels)
            return fit + IMAGE_CONFIG.inner_l2 * squares

        return jax.grad(loss)(params)

    optimiser = optax.adam(IMAGE_CONFIG.inner_learning_rate, eps=1e-8, eps_root=1e-16)
    for arch, score in zip(CELLS, raw, strict=True):
        trained, moments = params, optimiser.init(params)
        for _ in range(IMAGE_CONFIG.inner_steps):
            updates, moments = optimiser.update(gradient(trained, arch), moments)
            trained = optax.apply_updates(trained, updates)
        outputs = IMAGES.apply(trained, arch, data.valid_inputs)
        loss = losses.softmax_cross_entropy(outputs, data.valid_labels)
        np.testing.assert_allclose(score, -loss, rtol=1e-3)


def test_the_outer_gradient_through_image_cells_is_that_of_differences():
    with jax.enable_x64(True):
        params, data = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, float)), image_member())

        @jax.jit
        def score(inputs, arch):
            both = data._replace(train_inputs=inputs["train"], valid_inputs=inputs["valid"])
            return inner_loop.score(IMAGES, IMAGE_CONFIG, params, arch, both, KEY)

        inputs = {"train": data.train_inputs, "valid": data.valid_inputs}
        for arch in CELLS[:2]:
            jax.test_util.check_grads(
                functools.partial(score, arch=arch),
                (inputs,),
                order=1,
                modes=["rev"],
                eps=1e-6,
                atol=1e-5,
                rtol=1e-4,
            )
