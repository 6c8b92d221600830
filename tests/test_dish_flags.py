"""dish_flags: one flag for each field of DishConfig, there and back, and what is refused."""

import dataclasses

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from experiments import dish_flags
from spd_jax.dish.config import CHOICES, RATES, DishConfig
from spd_jax.errors import UserError

FIELDS = [field.name for field in dataclasses.fields(DishConfig)]
# Another value than the default for each field; all of them together can be run.
OTHER = {
    "inner_steps": 7,
    "outer_steps": 0,
    "train_samples": 12,
    "valid_samples": 12,
    "ensemble_size": 2,
    "motif_batch": 5,
    "inner_batch_size": 4,
    "inner_loss": "softmax_cross_entropy",
    "inner_metric": "true_class_probability",
    "outer_loss": "absolute_pearson",
    "gradient": "truncated",
    "truncation": 3,
    "shared_data": True,
    "learn_labels": True,
    "schedule": "cosine",
    "decay_steps": (3, 9, 27),
    "valid_every": 2,
    "remat": "nested",
    "inner_learning_rate": (0.1, 0.3),
    "inner_l2": 0.0,
    "outer_learning_rate": 1e-30,
    "outer_l2": 0.125,
    "decay": 1.0,
    "init_scale": (1.5, 2.0),
}


def parse(*argv, preset=None):
    """Return what the flags make of a preset."""
    values = flags.FlagValues()
    dish_flags.define(values)
    values(["program", *argv])
    return dish_flags.read(DishConfig() if preset is None else preset, values)


def as_flag(name, value):
    """Return the command-line word that gives a field this value."""
    flag = "num_dishes" if name == "ensemble_size" else name
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no{flag}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"--{flag}={text}"


def test_every_field_has_a_flag_that_is_not_given_by_default():
    values = flags.FlagValues()
    dish_flags.define(values)
    assert set(values) == {"num_dishes", *FIELDS} - {"ensemble_size"}
    assert {name: values[name].default for name in values} == dict.fromkeys(values)
    assert set(OTHER) == set(FIELDS)
    assert [name for name in FIELDS if getattr(DishConfig(), name) == OTHER[name]] == []


@pytest.mark.parametrize("preset", [DishConfig(), DishConfig(**OTHER)])
def test_without_flags_the_preset_stays(preset):
    assert parse(preset=preset) == preset


def test_all_flags_together_give_all_fields():
    config = parse(*(as_flag(name, value) for name, value in OTHER.items()))
    assert dataclasses.asdict(config) == OTHER


@pytest.mark.parametrize("name", FIELDS)
def test_a_flag_changes_its_own_field_alone_and_takes_it_back(name):
    # A member's rate needs two members, and so on: the other fields allow either value.
    preset = DishConfig(**OTHER | {"inner_learning_rate": 0.5, "init_scale": 0.5})
    value = {"valid_samples": 12, "train_samples": 12}.get(name, getattr(DishConfig(), name))
    if name == "truncation":
        value = 7
    if name == "ensemble_size":
        value = 9
    changed = parse(as_flag(name, value), preset=preset)
    assert changed == dataclasses.replace(preset, **{name: value})
    assert type(getattr(changed, name)) is type(value)
    back = parse(as_flag(name, getattr(preset, name)), preset=changed)
    assert back == preset


rates = st.floats(0, 1e6, allow_subnormal=False)
values_of = {
    **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
    **{name: st.one_of(rates, st.tuples(rates, rates, rates)) for name in RATES},
    **{name: st.integers(2, 10**6) for name in ("inner_steps", "outer_steps", "motif_batch")},
    "decay_steps": st.lists(st.integers(0, 1000), max_size=4).map(tuple),
    "learn_labels": st.booleans(),
    "shared_data": st.booleans(),
    "ensemble_size": st.just(3),
    "truncation": st.just(1),
}


@given(st.fixed_dictionaries({}, optional=values_of))
def test_any_settings_come_back_from_their_flags(chosen):
    chosen = {"ensemble_size": 3, "truncation": 1} | chosen
    config = parse(*(as_flag(name, value) for name, value in chosen.items()))
    assert config == dataclasses.replace(DishConfig(), **chosen)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--outer_l2=0.5"], 0.5),
        (["--outer_l2", "5e-1"], 0.5),
        (["--outer_l2=0.5,0.25", "--num_dishes=2"], (0.5, 0.25)),
        (["--outer_l2= 0.5 , 0.25 ", "--num_dishes=2"], (0.5, 0.25)),
    ],
)
def test_a_rate_is_one_number_or_one_for_each_dish(words, value):
    assert parse(*words).outer_l2 == value


@pytest.mark.parametrize(("text", "steps"), [("7", (7,)), ("7,9", (7, 9)), ("", ())])
def test_decay_steps_are_always_a_tuple(text, steps):
    assert parse(f"--decay_steps={text}").decay_steps == steps


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--outer_l2=abc"], "--outer_l2=abc: give numbers, separated by commas"),
        (["--outer_l2=0.1,"], "--outer_l2=0.1,: give numbers"),
        (["--decay_steps=2.5"], "--decay_steps=2.5: give numbers"),
        (["--outer_l2="], "outer_l2 has shape"),
        (["--outer_l2=1,2,3", "--num_dishes=2"], r"outer_l2 has shape \(3,\).* 2 ensemble members"),
        (["--decay=-0.5"], "decay=-0.5 must be finite and not negative"),
        (["--decay=nan"], "decay=nan must be finite"),
        (["--init_scale=inf"], "init_scale=inf must be finite"),
        (["--num_dishes=0"], "must be at least 1"),
        (["--outer_steps=-1"], "outer_steps=-1 must be at least 0"),
        (["--gradient=truncated"], "truncation=0 must lie between 1 and inner_steps=250"),
        (["--inner_batch_size=11"], "inner_batch_size=11 must lie between 0"),
        (["--shared_data", "--valid_samples=3"], "shared_data needs valid_samples=3 equal"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        parse(*words)


@pytest.mark.parametrize(
    "word", ["--schedule=steep", "--inner_steps=many", "--inner_steps=2.5", "--shared_data=perhaps"]
)
def test_values_of_the_wrong_kind_are_refused_by_the_parser(word):
    with pytest.raises(flags.IllegalFlagValueError, match=word.split("=")[0].strip("-")):
        parse(word)
