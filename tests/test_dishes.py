"""Learned dishes: saved with what they learned from, loaded by name, into a fitting network."""

import dataclasses

import jax
import numpy as np
import pytest

from spd_jax import dishes, files, metrics, problems
from spd_jax.dish import DishConfig
from spd_jax.dishes import LearnedDish
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.surrogates.dish_surrogate import DishSurrogate

SLOPES = np.linspace(0.1, 2.0, 6, dtype=np.float32)
CONFIG = DishConfig(
    inner_steps=2,
    outer_steps=1,
    train_samples=2,
    valid_samples=2,
    ensemble_size=2,
    decay_steps=(1, 3),
    inner_learning_rate=(0.1, 0.3),
    targets="ranks",
)
SHIPPED = {"sigmoid_slope_fashion_mnist": "fashion_mnist"}


@pytest.fixture(scope="module")
def learned():
    surrogate = DishSurrogate(problems.get("sigmoid_slope").family(1), CONFIG)
    fitted = surrogate.fit(jax.random.key(0), SLOPES, np.sin(SLOPES))
    return LearnedDish(fitted, "sigmoid_slope", 1, {"source": "a table", "seed": 0})


def test_a_saved_dish_is_the_same_and_says_where_it_comes_from(learned, tmp_path):
    learned.save(tmp_path / "dish.npz")
    again = dishes.read(tmp_path / "dish.npz")
    np.testing.assert_array_equal(again.predict(SLOPES), learned.predict(SLOPES))
    assert dataclasses.replace(again, fitted=learned.fitted) == learned
    assert again.fitted.surrogate == learned.fitted.surrogate


def test_a_dish_of_slopes_ranks_kinds_of_activation(learned, tmp_path):
    learned.save(tmp_path / "dish.npz")
    kinds = problems.get("activation_slope")
    other = dishes.read(tmp_path / "dish.npz", problem="activation_slope")
    sigmoids = kinds.embeddings["sigmoid_slope"](SLOPES)
    np.testing.assert_allclose(other.predict(sigmoids), learned.predict(SLOPES), rtol=1e-3)
    assert np.isfinite(other.predict({**sigmoids, "kind": np.full(6, 5, np.int32)})).all()


def test_what_does_not_fit_is_refused(learned, tmp_path):
    path = tmp_path / "dish.npz"
    learned.save(path)
    with pytest.raises(UserError, match="does not fit the motif-network of rnn_cell"):
        dishes.read(path, problem="rnn_cell")
    with pytest.raises(UserError, match="unknown problem 'nothing'"):
        dishes.read(path, problem="nothing")
    with pytest.raises(UserError, match="unknown dish 'nothing': use one of sigmoid_slope_fash"):
        dishes.load("nothing")
    arrays = files.load_arrays(path, kind="LearnedDish")
    files.save_arrays(path, {"dish": arrays["dish"]}, kind="LearnedDish")
    with pytest.raises(UserError, match="is damaged, or was written by another version"):
        dishes.read(path)


def test_the_shipped_dishes_are_those_that_are_named():
    assert dishes.names() == sorted(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_dish_fits_the_table_that_it_learned_from(name):
    learned = dishes.load(name)
    problem = problems.get("sigmoid_slope")
    table = lookup.read(lookup.shipped(f"{SHIPPED[name]}_sigmoid_slope"), problem.space)
    assert learned.provenance["identity"] == table.identity
    assert learned.provenance["motifs"] == len(table) == 60
    assert learned.provenance["command"].startswith("python -m experiments.carry_over ")
    assert len(learned.provenance["commit"]) >= 12
    assert metrics.kendall_tau(learned.predict(table.cells.archs), table.scores) > 0.7
