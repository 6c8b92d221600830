"""settings: what a field says of itself, what is refused, and what differs between two runs."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.settings import LARGEST_COUNT, LARGEST_SEED, setting


@dataclasses.dataclass(frozen=True)
class Example:
    """Settings of every kind."""

    seed: int = setting(0, "of everything", at_least=0)
    runs: int = setting(3, "how many", at_least=1, grows=True)
    share: float = setting(0.5, "of the known ones", at_least=0, at_most=0.9)
    low: float = setting(-1.0, "where it begins")
    order: str = setting("up", "which way", choices=("up", "down"))
    exact: bool = setting(False, "whether it is")
    known: tuple[int, ...] = setting((5, 10), "numbers of them", at_least=2)
    names: tuple[str, ...] = setting((), "who takes part", choices=("ann", "bob"))
    table: str | None = setting(None, "where it is", free=True)
    limit: int | None = setting(None, "where to stop", at_most=9)
    dish: DishConfig = setting(DishConfig(), "", by_preset=True)


def test_the_defaults_and_their_neighbours_are_allowed():
    settings_lib.check(Example())
    settings_lib.check(
        Example(
            seed=LARGEST_SEED, runs=LARGEST_COUNT, share=0, low=np.float32(-1e30), order="down",
            exact=np.bool_(True), known=(2, np.int64(3)), names=("bob", "ann"), table="a.csv",
            limit=9, dish=DishConfig(inner_steps=LARGEST_COUNT, decay_steps=(), outer_l2=2),
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"seed": 99999999999999999999}, "seed=9{20} must be at most 2147483647"),
        ({"runs": 0}, "runs=0 must be at least 1"),
        ({"runs": 1_000_000_000}, "runs=1000000000 must be at most 1000000"),
        ({"runs": 1.5}, "runs=1.5 must be a whole number"),
        ({"runs": 2.0}, "runs=2.0 must be a whole number"),
        ({"runs": True}, "runs=True must be a whole number"),
        ({"runs": "3"}, "runs='3' must be a whole number"),
        ({"runs": None}, "runs=None must be a whole number"),
        ({"runs": [3]}, r"runs=\[3\] must be a whole number"),
        ({"share": float("nan")}, "share=nan must be finite"),
        ({"share": np.float32("inf")}, "share=inf must be finite"),
        ({"share": 0.91}, "share=0.91 must be at most 0.9"),
        ({"share": -1e-9}, "share=-1e-09 must be at least 0"),
        ({"share": "half"}, "share='half' must be a number"),
        ({"low": float("-inf")}, "low=-inf must be finite"),
        ({"order": "left"}, "order='left' is unknown: use one of up, down"),
        ({"order": 3}, "order=3 must be a text"),
        ({"exact": 1}, "exact=1 must be True or False"),
        ({"exact": "yes"}, "exact='yes' must be True or False"),
        ({"known": 5}, "known=5 must be a tuple"),
        ({"known": [5]}, r"known=\[5\] must be a tuple"),
        ({"known": (5, 1)}, "known=1 must be at least 2"),
        ({"known": (5, 2.5)}, "known=2.5 must be a whole number"),
        ({"known": (5, 10**7)}, "known=10000000 must be at most 1000000"),
        ({"names": ("ann", "eve")}, "names='eve' is unknown: use one of ann, bob"),
        ({"table": 3}, "table=3 must be a text"),
        ({"limit": 10}, "limit=10 must be at most 9"),
        ({"dish": None}, "dish=None must be a DishConfig"),
        ({"dish": DishConfig(inner_steps=0)}, "inner_steps=0 must be at least 1"),
        ({"dish": DishConfig(inner_steps=10**20)}, "inner_steps=10{20} must be at most"),
        ({"dish": DishConfig(outer_steps=10**7)}, "outer_steps=10000000 must be at most 1000000"),
        ({"dish": DishConfig(decay_steps=(3, 10**7))}, "decay_steps=10000000 must be at most"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_sentence(changes, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        settings_lib.check(Example(**changes))
    assert "\n" not in str(caught.value)


odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
    st.lists(st.integers()), st.lists(st.one_of(st.integers(), st.text())).map(tuple),
    st.dictionaries(st.text(), st.integers()), st.sampled_from([10**400, -(10**400), object()]),
    st.complex_numbers(), st.fractions(), st.decimals(),
)  # fmt: skip


@given(st.sampled_from(dataclasses.fields(Example)), odd)
def test_any_value_is_allowed_or_refused_as_the_users(field, value):
    example = Example(**{field.name: value})
    refused = None
    try:
        settings_lib.check(example)
    except UserError as error:
        refused = str(error)
    if refused is None:
        assert json.dumps(settings_lib.described(example), allow_nan=False)
    else:
        assert refused.startswith(f"{field.name}=")


def test_what_decides_a_result_is_described_as_plain_data():
    described = settings_lib.described(Example(known=(2, np.int64(7)), share=np.float64(0.25)))
    assert described["known"] == [2, 7]
    assert described["dish"]["decay_steps"] == [20, 50]
    assert set(described) == {field.name for field in dataclasses.fields(Example)} - {"table"}
    assert settings_lib.from_json(json.dumps(described)) == described


def test_plain_data_of_arrays_mappings_and_classes():
    rates = DishConfig(inner_l2=jnp.asarray([0.5, 0.25]), decay=np.float32(0.5))
    plain = settings_lib.to_json({"dish": rates, 3: (np.arange(2), None, "a", True)})
    assert plain["dish"] == settings_lib.to_json(DishConfig()) | {
        "inner_l2": [0.5, 0.25],
        "decay": 0.5,
    }
    assert plain["3"] == [[0, 1], None, "a", True]
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"a"'])
def test_what_is_no_mapping_is_not_read(text):
    with pytest.raises(ValueError, match=r".*"):
        settings_lib.from_json(text)


def test_settings_that_grow():
    assert settings_lib.growing(Example()) == ("runs",)
    assert settings_lib.growing(Example) == ("runs",)


@pytest.mark.parametrize(
    ("before", "after", "differing"),
    [
        ({}, {}, {}),
        ({"a": 1, "b": [1, 2]}, {"b": [1, 2], "a": 1.0}, {}),
        ({"a": None}, {}, {}),
        ({}, {"a": None}, {}),
        ({"a": 1}, {}, {"a": (1, None)}),
        ({}, {"a": False}, {"a": (None, False)}),
        ({"a": [1]}, {"a": [1, 2]}, {"a": ([1], [1, 2])}),
        ({"a": 1, "d": {"x": 1, "y": 2, "z": 3}}, {"a": 2, "d": {"x": 2, "y": 2}},
         {"a": (1, 2), "x": (1, 2), "z": (3, None)}),
        ({"d": {"x": 1}}, {"d": 3}, {"d": ({"x": 1}, 3)}),
        ({"grows": 3}, {"grows": 3}, {}),
        ({"grows": 3}, {"grows": 4}, {}),
        ({"grows": 3}, {"grows": 2}, {"grows": (3, 2)}),
        ({"grows": None}, {"grows": 2}, {"grows": (None, 2)}),
        ({"grows": 2}, {}, {"grows": (2, None)}),
        ({"grows": False}, {"grows": True}, {"grows": (False, True)}),
        ({"grows": "a"}, {"grows": "b"}, {"grows": ("a", "b")}),
        ({"d": {"grows": 1}}, {"d": {"grows": 2}}, {"grows": (1, 2)}),
    ],
)  # fmt: skip
def test_settings_are_compared_as_data(before, after, differing):
    assert settings_lib.differing(before, after, ("grows",)) == differing


def test_what_a_docstring_says_of_attributes():
    class Documented:
        """A class.

        Attributes:
          one: the first, which has
            two lines, and a note: here.
          two, three: both of them.
        """

    assert settings_lib.attribute_help(Documented) == {
        "one": "the first, which has two lines, and a note: here.",
        "two": "both of them.",
        "three": "both of them.",
    }
    assert settings_lib.attribute_help(type("Bare", (), {})) == {}
    words = settings_lib.attribute_help(DishConfig)
    assert set(words) == {field.name for field in dataclasses.fields(DishConfig)}
    assert min(map(len, words.values())) > 10


def test_a_sentence_stays_on_one_line_whatever_it_quotes():
    assert (
        str(UserError("size=\nthree\r\nfour must be a number"))
        == "size= three four must be a number"
    )
