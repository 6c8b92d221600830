"""Kinds of activation with a slope: the space, the motif-network, the picture, the problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_jax import dish, problems
from spd_jax.archs import Cells
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.spaces import activation_slope, sigmoid_slope
from spd_jax.spaces.activation_slope import KINDS, UNITS, ActivationSlopeSpace
from spd_jax.spaces.activation_slope.drawing import draw

SPACE = ActivationSlopeSpace()
PROBLEM = problems.get("activation_slope")
FAMILY = activation_slope.family(3, 2, 2)
Z = np.linspace(-5, 5, 41)
PLAIN = {
    "sigmoid": 1 / (1 + np.exp(-Z)),
    "tanh": np.tanh(Z),
    "relu": np.where(Z > 0, Z, 0),
    "softplus": np.log(1 + np.exp(Z)),
    "swish": Z / (1 + np.exp(-Z)),
    "sin": np.sin(Z),
    "gaussian": np.exp(-(Z**2)),
}


def arch(kind, slope):
    return {"kind": np.int32(KINDS.index(kind)), "slope": np.float32(slope)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_is_that_of_numpy(kind):
    np.testing.assert_allclose(UNITS[kind](jnp.asarray(Z)), PLAIN[kind], atol=2e-6)


def test_the_slope_multiplies_a_relu_as_it_multiplies_its_input():
    z = jnp.asarray(Z)
    np.testing.assert_allclose(UNITS["relu"](0.3 * z), 0.3 * UNITS["relu"](z), rtol=1e-6)
    swish = 0.3 * z * jax.nn.sigmoid(0.3 * z)
    np.testing.assert_allclose(UNITS["swish"](0.3 * z), swish, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_motif_network_is_that_of_numpy(kind):
    params = jax.tree.map(lambda p: np.asarray(p, float), FAMILY.init(jax.random.key(1)))
    inputs = np.random.default_rng(0).normal(size=(5, 3))

    def unit(z):
        return np.interp(0.7 * z, Z, PLAIN[kind])  # between points 0.25 apart

    hidden = unit(inputs @ params[0]["weight"] + params[0]["bias"])
    hidden = unit(hidden @ params[1]["weight"] + params[1]["bias"])
    expected = hidden @ params[2]["weight"] + params[2]["bias"]
    outputs = FAMILY.apply(FAMILY.init(jax.random.key(1)), arch(kind, 0.7), jnp.asarray(inputs))
    np.testing.assert_allclose(outputs, expected, atol=0.05)


def test_one_definition_serves_both_spaces():
    other = sigmoid_slope.family(3, 2, 2)
    params = FAMILY.init(jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, params, other.init(jax.random.key(2)))
    inputs = jax.random.normal(jax.random.key(3), (4, 3))
    np.testing.assert_allclose(
        FAMILY.apply(params, arch("sigmoid", 0.4), inputs),
        other.apply(params, np.float32(0.4), inputs),
        rtol=1e-6,
    )
    assert activation_slope.family(3, 2, 2) is FAMILY


def test_a_dish_of_slopes_predicts_sigmoids_here_as_there():
    config = DishConfig(inner_steps=3, train_samples=3, valid_samples=3, inner_learning_rate=0.3)
    slopes = np.linspace(0.1, 2.0, 5, dtype=np.float32)
    state = dish.init(jax.random.key(0), FAMILY, config)
    there = dish.predict(state, sigmoid_slope.family(3, 2, 2), config, slopes)
    here = dish.predict(state, FAMILY, config, activation_slope.of_sigmoids(slopes))
    np.testing.assert_allclose(here, there, rtol=1e-5)


def test_an_outer_step_learns_from_all_kinds_at_once():
    config = DishConfig(inner_steps=3, train_samples=3, valid_samples=3, inner_learning_rate=0.3)
    archs = Cells.read(SPACE, [f"{kind} 0.5" for kind in KINDS]).archs
    state = dish.init(jax.random.key(0), FAMILY, config)
    state, info = dish.outer_step(state, FAMILY, config, archs, jnp.arange(7.0))
    assert np.isfinite(np.asarray(info.scores)).all()
    assert int(info.masked.sum()) == 0
    assert all(np.isfinite(leaf).all() for leaf in state.data)
    assert len(set(np.asarray(info.scores)[0].tolist())) == len(KINDS)


slopes = st.floats(float(np.float32(0.01)), float(np.float32(2.01)), width=32)


@settings(max_examples=40)
@given(st.sampled_from(KINDS), slopes)
def test_text_comes_back_to_the_bit(kind, slope):
    motif = arch(kind, slope)
    back = SPACE.decode(SPACE.encode(motif))
    assert (back["kind"], back["slope"]) == (motif["kind"], motif["slope"])
    assert back["slope"].dtype == np.float32


@pytest.mark.parametrize(
    "text", ["0.37", "elu 0.37", "tanh", "tanh ", "tanh 3", "tanh nan", "Tanh 0.37", "tanh 0.37 1"]
)
def test_what_is_no_motif_is_refused(text):
    with pytest.raises(UserError, match="is no motif: write one of sigmoid, tanh"):
        SPACE.decode(text)


def test_mutations_change_slopes_and_now_and_then_kinds():
    archs = {"kind": np.full(4000, 2, np.int32), "slope": np.full(4000, 1.0, np.float32)}
    mutants = SPACE.mutate(jax.random.key(0), archs)
    changed = float(np.mean(np.asarray(mutants["kind"]) != 2))
    assert changed == pytest.approx(0.2 * 6 / 7, abs=0.03)
    assert np.asarray(mutants["slope"]).std() == pytest.approx(0.2, rel=0.05)


def test_children_have_the_kind_of_either_parent_and_a_slope_between():
    first = {"kind": np.full(500, 1, np.int32), "slope": np.full(500, 0.5, np.float32)}
    second = {"kind": np.full(500, 5, np.int32), "slope": np.full(500, 1.5, np.float32)}
    children = SPACE.crossover(jax.random.key(0), first, second)
    kinds, counts = np.unique(children["kind"], return_counts=True)
    assert kinds.tolist() == [1, 5]
    assert counts.min() > 200
    assert 0.5 <= np.min(children["slope"]) < 0.6 < 1.4 < np.max(children["slope"]) <= 1.5


def test_features_are_the_slope_and_a_bit_for_the_kind():
    archs = Cells.read(SPACE, ["tanh 0.5", "gaussian 2"]).archs
    expected = [[0.5, 0, 1, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(SPACE.features(archs), expected)


def test_what_the_problem_says_of_its_motifs():
    archs = Cells.read(SPACE, ["tanh 0.5", "sigmoid 2"]).archs
    np.testing.assert_array_equal(PROBLEM.coordinate(archs), [0.5, 2])
    assert PROBLEM.groups(archs) == ["tanh", "sigmoid"]
    embedded = PROBLEM.embeddings["sigmoid_slope"](np.array([0.25, 1.5]))
    assert [SPACE.encode(own) for own in _each(embedded)] == ["sigmoid 0.25", "sigmoid 1.5"]


def _each(archs):
    return [{name: leaf[i] for name, leaf in archs.items()} for i in range(len(archs["kind"]))]


def test_the_listed_cells_are_twelve_slopes_of_each_kind():
    names = Cells.read(SPACE, PROBLEM.table_cells).names
    assert names == PROBLEM.table_cells
    assert len(set(names)) == 12 * len(KINDS)
    slopes = {float(name.split()[1]) for name in names}
    assert slopes <= set(sigmoid_slope.table_slopes().tolist())
    assert sum(slope < 0.37 for slope in slopes) == 6


def test_trainings_of_sigmoids_are_those_of_the_slope_space():
    """The fingerprints of shipped tables hold, so that nothing is bought anew."""
    slopes_ = problems.get("sigmoid_slope")
    table = lookup.read(lookup.shipped("fashion_mnist_sigmoid_slope"), slopes_.space)
    assert slopes_.ground_truth("fashion_mnist").task(None, None).fingerprint == table.task
    full = PROBLEM.ground_truth("fashion_mnist_full").task(None, None)
    assert full.fingerprint == table.task
    short = PROBLEM.ground_truth("fashion_mnist").task(None, None)
    assert short.fingerprint != table.task


@pytest.mark.parametrize(("kind", "lines"), [("swish", 2), ("sin", 2)])
def test_the_picture_is_the_curve(kind, lines):
    figure = draw(arch(kind, 0.5), "A title")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    z, y = axes.lines[-1].get_data()
    half = {"swish": 0.5 * z / (1 + np.exp(-0.5 * z)), "sin": np.sin(0.5 * z)}
    np.testing.assert_allclose(y, half[kind], atol=1e-5)
    assert len(axes.lines) == lines
    assert axes.get_title(loc="left") == "A title"
    assert len(draw(arch(kind, 1.0)).axes[0].lines) == 1


@pytest.mark.parametrize(
    "bad", [{"kind": 9, "slope": 1.0}, {"kind": 0, "slope": np.nan}, {"kind": 0, "slope": [1, 2]}]
)
def test_what_cannot_be_drawn_is_refused(bad):
    with pytest.raises(UserError, match="give one motif"):
        draw(bad)
