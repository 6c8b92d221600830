"""Whatever is put into a public settings object, a family or the scores: it runs, or one sentence.

A setting that `check` lets pass must also be one that a fit can be run with; those that are
small enough for that are fitted here.
"""

import dataclasses
import math
import warnings

import jax
import numpy as np
import pytest
import toy_searches
from damage import cases
from hypothesis import given
from hypothesis import strategies as st
from toy_widths import TOY, Widths, family

from spd_jax import dish, problems
from spd_jax.archs import Cells
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Evaluation, EvaluationKey, Ledger
from spd_jax.motif import MotifFamily
from spd_jax.search import loop
from spd_jax.search.genetic import Genetic
from spd_jax.search.loop import SearchConfig
from spd_jax.search.nao import NaoProposer
from spd_jax.search.random_search import RandomSearch
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.candidates import CandidateSettings
from spd_jax.studies.extrapolation import ExtrapolationSettings
from spd_jax.studies.league import LeagueSettings
from spd_jax.studies.searches import SearchSettings
from spd_jax.studies.table_purchase import TableSettings
from spd_jax.surrogates.compose import Averaged, FrozenDish, Stacked
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.nao import NaoConfig, NaoPredictor
from spd_jax.surrogates.regressors import GaussianProcess, RandomForest
from spd_jax.surrogates.slope_mlp import SlopeMlp
from spd_jax.units import LARGEST_SCORE

SPACE, CELLS = Widths(), problems.get("rnn_cell")
ARCHS = Cells.of(SPACE, SPACE.sample(jax.random.key(0), 8)).archs
RNN = Cells.of(CELLS.space, CELLS.space.sample(jax.random.key(0), 8)).archs
SCORES = np.array([0.1, 0.5, 0.3, 0.2, 0.9, 0.4, 0.6, 0.7])
CONFIG = DishConfig(inner_steps=2, outer_steps=1, train_samples=2, valid_samples=2)
assert CELLS.tokens is not None
SMALL_NAO = NaoConfig(4, 4, 4, 1, epochs=2)
BEST = TOY.dish_presets["best"]

numbers = st.one_of(
    st.integers(-3, 9), st.floats(0, 1), st.integers(), st.floats(), st.booleans(),
    st.sampled_from([math.nan, math.inf, -math.inf, 10**400, 2**31, 2**63, -0.0, 1e308]),
    st.sampled_from([np.int64(3), np.float32(0.5), np.bool_(True), np.float64("nan")]),
)  # fmt: skip
odd = st.one_of(
    numbers, st.none(), st.text(max_size=9), st.binary(max_size=3), st.complex_numbers(),
    st.lists(numbers, max_size=3), st.lists(numbers, max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=2), numbers, max_size=2), st.fractions(), st.decimals(),
    st.sampled_from(["onehot", "bernoulli", "yes", "dish", "all", "full", "truncated", object()]),
    st.lists(st.text(max_size=3), max_size=2).map(tuple),
)  # fmt: skip


def one_sentence(error):
    text = str(error)
    assert text
    assert "\n" not in text
    return text


def refused(check):
    """Return why something is refused, or "" where it is not; nothing else may be raised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check()
    except UserError as error:
        return one_sentence(error)
    return ""


SETTINGS = [
    SearchSettings(), LeagueSettings(), ExtrapolationSettings(), TableSettings(),
    CandidateSettings(),
]  # fmt: skip


@cases(300)
@given(st.sampled_from(SETTINGS), st.data())
def test_settings_of_a_study_are_checked(settings, data):
    """What is not refused is described as JSON that decides a run."""
    fields = [field.name for field in dataclasses.fields(settings)]
    chosen = data.draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3, unique=True))
    changed = dataclasses.replace(settings, **{name: data.draw(odd) for name in chosen})
    if not refused(lambda: settings_lib.check(changed)):
        assert settings_lib.described(changed) == settings_lib.described(changed)


@cases(300)
@given(st.data())
def test_a_dish_is_checked(data):
    fields = [field.name for field in dataclasses.fields(DishConfig)]
    chosen = data.draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3, unique=True))
    config = dataclasses.replace(CONFIG, **{name: data.draw(odd) for name in chosen})
    refused(lambda: dish.check(config))


@cases(8)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "inner_learning_rate": st.floats(0, 2.0**127, width=32),
            "inner_l2": st.floats(0, 2.0**127, width=32),
            "outer_learning_rate": st.floats(0, 2.0**127, width=32),
            "outer_l2": st.floats(0, 2.0**127, width=32),
            "decay": st.floats(0, 2.0**127, width=32),
            "init_scale": st.floats(0, 2.0**127, width=32),
        },
    )
)
def test_any_rates_can_be_fitted_or_are_refused(rates):
    """A motif that diverges is NaN; where all do, the sentence says what to lower."""
    surrogate = DishSurrogate(family(2), dataclasses.replace(CONFIG, **rates))
    found = []
    why = refused(
        lambda: found.append(surrogate.fit(jax.random.key(0), ARCHS, SCORES).predict(ARCHS))
    )
    assert why or found[0].shape == (8,)


@cases(60)
@given(st.sampled_from(["labels", "input_shape", "output_shape"]), odd)
def test_a_family_is_checked_before_anything_is_drawn(name, value):
    base = family(2)
    given = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    if (
        name != "labels"
        and isinstance(value, tuple)
        and all(isinstance(x, int | np.integer) and x > 0 for x in value)
    ):
        return  # another shape, which this network cannot have
    changed = MotifFamily(**{**given, name: value})
    for use in (
        lambda: dish.init(jax.random.key(0), changed, CONFIG),
        lambda: DishSurrogate(changed, CONFIG).fit(jax.random.key(0), ARCHS, SCORES),
    ):
        assert bool(refused(use)) == (name != "labels" or value != "bernoulli")


@cases(60)
@given(
    st.lists(
        st.one_of(
            st.floats(), st.floats(0, 1), st.sampled_from([1e308, -1e308, 1e160, 1e30, 5e-324, 0.3])
        ),
        min_size=8,
        max_size=8,
    ),
    st.sampled_from(["gp", "forest", "mlp", "stacked", "averaged"]),
)
def test_any_scores_are_fitted_rightly_or_refused(scores, who):
    """Predictions of regressors lie where scores lie: nothing is infinite, and nothing warns."""
    process, forest = GaussianProcess(SPACE.features), RandomForest(SPACE.features, trees=3)
    surrogate, archs = {
        "gp": (process, ARCHS),
        "forest": (forest, ARCHS),
        "mlp": (SlopeMlp(steps=3), np.linspace(0.1, 1, 8)),
        "stacked": (Stacked(forest, forest), ARCHS),
        "averaged": (Averaged(forest, process), ARCHS),
    }[who]
    found = []
    why = refused(
        lambda: found.append(surrogate.fit(jax.random.key(0), archs, scores).predict(archs))
    )
    finite = np.array([score for score in scores if math.isfinite(score)])
    if len(finite) and np.abs(finite).max() > LARGEST_SCORE:
        assert why
    if not why:
        assert np.isfinite(found[0]).all()
        if who == "forest":
            span = np.abs(finite).max() * 1e-9
            assert found[0].min() >= finite.min() - span
            assert found[0].max() <= finite.max() + span


HUGE = {
    "gp": (GaussianProcess(SPACE.features), ARCHS),
    "forest": (RandomForest(SPACE.features), ARCHS),
    "dish": (DishSurrogate(family(2), CONFIG), ARCHS),
    "slope_mlp": (SlopeMlp(), np.linspace(0.1, 1, 8)),
    "nao": (NaoPredictor(CELLS.tokens, SMALL_NAO), RNN),
    "averaged": (
        Averaged(RandomForest(SPACE.features), GaussianProcess(SPACE.features)), ARCHS
    ),
    "stacked": (
        Stacked(FrozenDish(DishSurrogate(family(2), CONFIG)), RandomForest(SPACE.features)), ARCHS
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_scores_of_1e308_are_refused_by_every_surrogate(name):
    surrogate, archs = HUGE[name]
    for scores in (SCORES * 1e308, np.where(SCORES > 0.5, 1e308, -1e308)):
        why = refused(lambda scores=scores: surrogate.fit(jax.random.key(0), archs, scores))
        assert "rescale" in why


def test_equal_scores_are_refused_by_a_dish_alone():
    for name in ("gp", "dish", "nao"):
        (surrogate, archs), found = HUGE[name], []
        why = refused(
            lambda own=surrogate, archs=archs, found=found: found.append(
                own.fit(jax.random.key(0), archs, np.full(8, 0.3)).predict(archs)
            )
        )
        if name == "dish":
            assert "there is nothing to learn" in why
        else:
            np.testing.assert_allclose(found[0], 0.3, rtol=0.05)


@cases(60)
@given(st.sampled_from([field.name for field in dataclasses.fields(SearchConfig)]), odd)
def test_sizes_of_a_search_are_checked_before_anything_is_bought(name, value):
    class Unsold:
        def evaluate(self, cells, seeds=(0,)):
            raise KeyError  # what must not be reached with a size that cannot be

    config = dataclasses.replace(SearchConfig(6, 1, 10, 3), **{name: value})
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_)
    if whole and 0 <= value <= 10**6:
        return  # a size that can be
    why = refused(
        lambda: loop.search(
            jax.random.key(0), SPACE, Unsold(), RandomSearch(), surrogate=HUGE["gp"][0],
            config=config,
        )
    )  # fmt: skip
    assert why.startswith(f"{name}=")


@pytest.mark.parametrize("value", [1.5, "2", True, None, math.nan, [2]])
@pytest.mark.parametrize("name", ["iterations", "warm_start", "proposals", "evaluations"])
def test_a_size_that_is_no_whole_number_costs_nothing(name, value, tmp_path):
    _, task = toy_searches.watched()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        truth = GroundTruth(SPACE.name, task, ledger)
        config = dataclasses.replace(SearchConfig(6, 1, 10, 3), **{name: value})
        why = refused(
            lambda: loop.search(jax.random.key(0), SPACE, truth, RandomSearch(), config=config)
        )
    assert name in why
    assert task.sold == []


@cases(60)
@given(st.sampled_from([field.name for field in dataclasses.fields(NaoConfig)]), odd)
def test_settings_of_nao_are_checked(name, value):
    config = dataclasses.replace(SMALL_NAO, **{name: value})
    why = refused(config.check)
    kind = int if isinstance(getattr(SMALL_NAO, name), int) else float
    plain = isinstance(value, int | float | np.integer | np.floating)
    whole = isinstance(value, int | np.integer)
    if not plain or isinstance(value, bool) or (kind is int and not whole):
        assert name in why


@cases(60)
@given(
    st.sampled_from([
        (Genetic, "parents"), (Genetic, "crossover_rate"), (NaoProposer, "seeds"),
        (NaoProposer, "steps"),
    ]),
    odd,
)  # fmt: skip
def test_settings_of_proposers_are_checked(which, value):
    kind, name = which
    given = {"tokens": CELLS.tokens} if kind is NaoProposer else {}
    found = []
    why = refused(lambda: found.append(kind(**given, **{name: value})))
    if not why and kind is Genetic:
        proposer, known = found[0], Cells.of(SPACE, ARCHS)
        assert not refused(lambda: proposer.propose(jax.random.key(0), SPACE, known, SCORES, 3))


SMALL = {
    GaussianProcess: ({"features": SPACE.features}, "kernel", ARCHS),
    RandomForest: ({"features": SPACE.features}, "trees", ARCHS),
    Stacked: (
        {"base": RandomForest(SPACE.features, 2), "regressor": RandomForest(SPACE.features, 2)},
        "folds", ARCHS,
    ),
    DishSurrogate: ({"family": family(2), "config": CONFIG}, "held_out_share", ARCHS),
}  # fmt: skip


@cases(60)
@given(st.sampled_from(sorted(SMALL, key=str)), odd)
def test_settings_of_surrogates_are_checked(kind, value):
    given, name, archs = SMALL[kind]
    if isinstance(value, int | float) and value > 20:
        return  # a forest of a million trees takes its time
    refused(lambda: kind(**given, **{name: value}).fit(jax.random.key(0), archs, SCORES))


@cases(15)
@given(
    st.sampled_from([f.name for f in dataclasses.fields(SlopeMlp) if f.name != "init_scale"]), odd
)
def test_settings_of_the_control_are_checked(name, value):
    if isinstance(value, int | np.integer) and value > 20 and name != "decay_steps":
        return
    surrogate = dataclasses.replace(SlopeMlp(steps=3), **{name: value})
    refused(lambda: surrogate.fit(jax.random.key(0), np.linspace(0.1, 1, 8), SCORES))


@cases(60)
@given(st.sampled_from([f.name for f in dataclasses.fields(Evaluation) if f.name != "info"]), odd)
def test_whatever_a_task_returns_is_recorded_or_refused(name, value):
    """And what is recorded is read back alike."""
    evaluation = dataclasses.replace(Evaluation("ok", 0.5, 0.4, (0.5,), 0.1), **{name: value})

    class Task(toy_searches.Formula):
        def evaluate(self, cell, seed, budget):
            return evaluation

    with Ledger(_fresh_ledger()) as ledger:
        truth = GroundTruth(SPACE.name, Task(), ledger)
        found = []
        why = refused(lambda: found.append(truth.evaluate(["1-2-3-4"])[0][0]))
        if why:
            assert len(ledger) == 0
            return
        (own,) = found
        key = EvaluationKey(SPACE.name, "1-2-3-4", truth.task.fingerprint, 0, truth.task.budget)
        assert ledger.get(key) == own
        assert own.status == "failed" or abs(own.score) <= LARGEST_SCORE


def _fresh_ledger():
    import tempfile

    return f"{tempfile.mkdtemp()}/ledger.sqlite"
