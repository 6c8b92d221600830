"""config: every refusal, the fields as a pytree, the outer rate."""

import dataclasses

import jax
import numpy as np
import pytest

from spd_jax import dish
from spd_jax.dish import config as config_module
from spd_jax.dish.config import (
    CHOICES,
    LEAST,
    RATES,
    SWITCHES,
    DishConfig,
    check,
    check_family,
)
from spd_jax.errors import UserError
from spd_jax.spaces import sigmoid_slope

NAMES = {field.name for field in dataclasses.fields(DishConfig)}


def test_the_defaults_are_table_2_and_pass():
    check(DishConfig())
    paper = DishConfig()
    assert (paper.inner_steps, paper.outer_steps, paper.train_samples) == (250, 60, 10)
    assert (paper.inner_learning_rate, paper.outer_learning_rate, paper.decay) == (0.01, 0.05, 0.4)
    assert (paper.inner_l2, paper.outer_l2) == (1e-5, 1e-5)


@pytest.mark.parametrize("name", CHOICES)
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError) as refusal:
        check(DishConfig(**{name: "nonsense"}))
    assert f"{name}='nonsense'" in str(refusal.value)
    assert all(choice in str(refusal.value) for choice in CHOICES[name])
    for choice in CHOICES[name]:
        check(DishConfig(**{name: choice}, truncation=5))


@pytest.mark.parametrize(
    ("least", "names"),
    [
        (0, ["outer_steps", "inner_batch_size", "truncation"]),
        (1, ["inner_steps", "train_samples", "valid_samples", "ensemble_size", "valid_every"]),
        (2, ["motif_batch"]),
    ],
)
def test_a_count_below_its_minimum_is_refused(least, names):
    for name in names:
        check(DishConfig(**{name: least}))
        with pytest.raises(UserError, match=f"{name}={least - 1} must be at least {least}"):
            check(DishConfig(**{name: least - 1}))


def test_an_inner_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="inner_batch_size=11 must lie between"):
        check(DishConfig(inner_batch_size=11))
    check(DishConfig(inner_batch_size=10))


@pytest.mark.parametrize("truncation", [0, 8])
def test_a_truncation_outside_the_inner_steps_is_refused(truncation):
    with pytest.raises(UserError, match=f"truncation={truncation} must lie between 1 and"):
        check(DishConfig(inner_steps=7, gradient="truncated", truncation=truncation))
    check(DishConfig(inner_steps=7, gradient="truncated", truncation=7))
    check(DishConfig(inner_steps=7, gradient="full", truncation=truncation))


@pytest.mark.parametrize("name", LEAST)
def test_a_count_is_a_whole_number(name):
    for bad in (2.5, 2.0, True, "2", None, np.ones(2, int), 2**31):
        with pytest.raises(UserError, match=f"{name}=.* must be (a whole number|at most)") as error:
            check(DishConfig(**{name: bad}))
        assert "\n" not in str(error.value)
    check(DishConfig(**{name: np.int64(2)}))


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_true_or_false(name):
    for bad in ("yes", 1, None):
        with pytest.raises(UserError, match=f"{name}=.* must be True or False"):
            check(DishConfig(**{name: bad}))
    check(DishConfig(**{name: np.True_}))


def test_decay_steps_are_a_tuple_of_whole_numbers():
    with pytest.raises(UserError, match=r"decay_steps=\[20\] must be a tuple of whole numbers"):
        check(DishConfig(decay_steps=[20]))
    for bad, message in ((2.5, "a whole number"), (-1, "at least 0"), (True, "a whole number")):
        with pytest.raises(UserError, match=f"each of decay_steps={bad} must be {message}"):
            check(DishConfig(decay_steps=(20, bad)))
    check(DishConfig(decay_steps=()))


def test_shared_data_of_two_sizes_are_refused():
    with pytest.raises(UserError, match="shared_data needs valid_samples=5 equal to"):
        check(DishConfig(shared_data=True, valid_samples=5))
    check(DishConfig(shared_data=True))


@pytest.mark.parametrize("name", RATES)
def test_rates(name):
    for bad in (-0.1, np.nan, np.inf, 1e39, [0.1, -0.1]):
        with pytest.raises(UserError, match=f"{name}=.* must be finite and not negative"):
            check(DishConfig(**{name: np.array(bad)}, ensemble_size=2))
    for bad in (True, "0.1", 1j, None, np.array([True, False]), [[0.1], [0.1, 0.2]], {}):
        with pytest.raises(UserError, match=f"{name}=.* must be a number, or one number for each"):
            check(DishConfig(**{name: bad}, ensemble_size=2))
    for bad in (np.ones(3), np.ones((2, 1)), np.ones(1)):
        with pytest.raises(UserError, match=f"{name} has shape"):
            check(DishConfig(**{name: bad}, ensemble_size=2))
    for good in (0.0, np.float32(0.1), np.array([0.1, 0.2])):
        check(DishConfig(**{name: good}, ensemble_size=2))


def test_rates_are_leaves_and_all_else_is_static():
    settings = DishConfig(inner_learning_rate=0.5)
    assert sorted(jax.tree.leaves(settings)) == sorted(getattr(settings, name) for name in RATES)
    doubled = jax.tree.map(lambda rate: 2 * rate, settings)
    assert doubled.inner_learning_rate == 1
    for name in NAMES - set(RATES):
        assert getattr(doubled, name) == getattr(settings, name)
    same = jax.tree.structure(dataclasses.replace(settings, decay=0.9))
    assert same == jax.tree.structure(settings)
    assert jax.tree.structure(dataclasses.replace(settings, inner_steps=3)) != same


def test_a_traced_config_is_not_checked_while_it_is_built():
    assert float(jax.jit(lambda settings: settings.decay)(DishConfig(decay=0.5))) == 0.5


def test_with_rates_sets_scalars_of_one_member():
    settings = DishConfig(decay=np.array([0.1, 0.2]), ensemble_size=2)
    one = config_module.with_rates(settings, {"decay": 0.2})
    assert one.decay == 0.2
    assert one.inner_l2 == settings.inner_l2


def test_staircase_without_steps_is_constant():
    settings = DishConfig(decay_steps=())
    factors = [config_module.outer_rate_factor(settings, jax.numpy.asarray(t)) for t in (0, 30)]
    assert [float(f) for f in factors] == [1, 1]


@pytest.mark.parametrize(
    ("field", "bad", "message"),
    [
        ("apply", None, "apply=None must be a function"),
        ("labels", "onehot", "labels='onehot' are unknown: use one of bernoulli, balanced_classes"),
        ("labels", None, "labels=None are unknown"),
        ("input_shape", [3], r"input_shape=\[3\] must be a tuple of whole numbers of at least 1"),
        ("input_shape", (3, 0), r"input_shape=\(3, 0\) must be"),
        ("output_shape", (2.0,), r"output_shape=\(2\.0,\) must be"),
        ("output_shape", (True,), r"output_shape=\(True,\) must be"),
        ("output_shape", 2, "output_shape=2 must be"),
    ],
)
def test_a_family_that_no_data_can_be_drawn_for_is_refused(field, bad, message):
    family = sigmoid_slope.family(3, 2, 2)
    check_family(family)
    family = dataclasses.replace(family, **{field: bad})
    for refuse in (
        lambda: check_family(family),
        lambda: dish.build(family, DishConfig()),
        lambda: dish.init(jax.random.key(0), family, DishConfig()),
    ):
        with pytest.raises(UserError, match=message):
            refuse()


def test_balanced_classes_need_an_axis_of_classes():
    family = dataclasses.replace(sigmoid_slope.family(3, 2, 2), output_shape=())
    check_family(family)
    with pytest.raises(UserError, match="has no axis for the classes"):
        check_family(dataclasses.replace(family, labels="balanced_classes"))
