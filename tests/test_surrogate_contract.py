"""What every surrogate promises, checked for all of them on every problem: one test a promise."""

import dataclasses
import functools
import inspect
import zipfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spd_jax import archs as archs_lib
from spd_jax import files, problems
from spd_jax.archs import Cells
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily
from spd_jax.problems import Problem, nasbench201
from spd_jax.spaces import sigmoid_slope
from spd_jax.spaces.image_network import Skeleton
from spd_jax.spaces.nasbench201 import network as nasbench201_network
from spd_jax.spaces.rnn_cell import network as rnn_cell_network
from spd_jax.surrogates import protocol
from spd_jax.surrogates.bananas import Bananas
from spd_jax.surrogates.columns import Calibrated, ColumnRegressor, MeanRank, RankTargets
from spd_jax.surrogates.compose import Averaged, FrozenDish, Stacked
from spd_jax.surrogates.costs import Cost
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.image_proxies import ImageNetwork
from spd_jax.surrogates.learning_curves import CurveRegression, PowerLaw
from spd_jax.surrogates.nao import NaoConfig, NaoPredictor
from spd_jax.surrogates.partial_training import PartialTraining
from spd_jax.surrogates.protocol import ResumableSurrogate, ScoreFree, Surrogate
from spd_jax.surrogates.proxies import Proxy
from spd_jax.surrogates.regressors import GaussianProcess, Mlp, RandomForest, SupportVectors
from spd_jax.surrogates.slope_mlp import SlopeMlp
from spd_jax.surrogates.tuned import Tuned

KEY = jax.random.key(2)
CONFIG = DishConfig(
    inner_steps=2,
    outer_steps=2,
    train_samples=3,
    valid_samples=3,
    ensemble_size=2,
    inner_learning_rate=0.3,
    outer_learning_rate=0.2,
    valid_every=1,
)
NAO = NaoConfig(
    embedding=4, hidden=4, predictor_width=4, predictor_layers=1, epochs=3, held_out_share=0.25
)


# Networks so small that a fit takes no time, by problem. The variants of the recurrent cell differ
# in their network alone, so that one of them stands for all; and the cells of NAS-Bench-101 have
# the same surrogates as those of NAS-Bench-201, and kinds of activation those of slopes.
TINY = Skeleton(stacks=1, cells=1, stem=2, image_size=2, classes=3)
FAMILIES = {
    "nasbench201": lambda hidden: nasbench201_network.family(TINY),
    "sigmoid_slope": lambda hidden: sigmoid_slope.family(2, hidden, 2),
    "rnn_cell_nao": lambda hidden: rnn_cell_network.family(
        "nao", inputs=2, hidden=hidden, outputs=2, length=2
    ),
}
PROXIES = {"nasbench201": lambda hidden: nasbench201.CELLS.proxies(TINY, draws=2)}
RIVALS = {"slope_mlp": SlopeMlp(steps=10)}  # the registered ones, with less work


def tiny_problems() -> list[Problem]:
    """Return the registered problems with tiny networks."""
    return [
        dataclasses.replace(
            problems.get(name),
            family=family,
            proxies=PROXIES.get(name),
            rivals={rival: RIVALS[rival] for rival in problems.get(name).rivals},
        )
        for name, family in FAMILIES.items()
    ]


def test_every_registered_problem_is_here():
    variants = {name for name in problems.names() if name.startswith("rnn_cell")}
    toys = {name for name in problems.names() if name.startswith("toy_")}  # of other tests
    others = set(problems.names()) - variants - toys - {"nasbench101", "activation_slope"}
    assert others == set(FAMILIES) - {"rnn_cell_nao"}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A surrogate, and what it is fitted on.

    Attributes:
      name: of problem and surrogate.
      surrogate: the surrogate.
      archs: known motifs `[8]`.
      scores: theirs `[8]`.
      new: other motifs `[8]`.
      failed: which of these cannot be predicted, bool `[8]`.
    """

    name: str
    surrogate: Any
    archs: Any
    scores: np.ndarray
    new: Any
    failed: np.ndarray

    def fit(self, scores=None, **resumption):
        """Return the surrogate fitted on the known motifs."""
        return self.surrogate.fit(
            KEY, self.archs, self.scores if scores is None else scores, **resumption
        )

    @functools.cached_property
    def fitted(self):
        """The surrogate fitted on the known scores."""
        return self.fit()

    @functools.cached_property
    def predictions(self):
        """Its predictions of the new motifs."""
        return self.fitted.predict(self.new)


def failing_at(family: MotifFamily, marked: Any) -> MotifFamily:
    """Return the family whose network of one motif has outputs that are NaN."""

    def apply(params, arch, inputs):
        pairs = zip(jax.tree.leaves(arch), jax.tree.leaves(marked), strict=True)
        same = functools.reduce(jnp.logical_and, [jnp.all(a == b) for a, b in pairs])
        return jnp.where(same, jnp.nan, family.apply(params, arch, inputs))

    return dataclasses.replace(family, apply=apply)


def surrogates(problem: Problem, marked: Any) -> Iterator[tuple[str, Surrogate, bool]]:
    """Yield surrogates by name, and whether they fail to predict the `marked` motif."""
    family = failing_at(problem.family(2), marked)
    features = problem.strongest_vectors
    dish = DishSurrogate(family, CONFIG)
    early = dataclasses.replace(dish, held_out_share=0.5)
    process, forest = GaussianProcess(features), RandomForest(features, trees=5)
    marked_name = problem.space.encode(marked)

    def lookup(archs, epochs):
        names = [problem.space.encode(arch) for arch in archs_lib.unstack(archs)]
        return [() if name == marked_name else (0.1 * len(name), 0.5, 0.6) for name in names]

    def cost(archs):
        return np.array([len(problem.space.encode(arch)) for arch in archs_lib.unstack(archs)])

    yield "dish", dish, True
    yield "dish_early_stopping", early, True
    yield "dish_untrained", FrozenDish(dish), True
    yield "gaussian_process", process, False
    yield "random_forest", forest, False
    yield "averaged", Averaged(dish, process), True
    yield "averaged_dishes", Averaged(early, dish), True
    yield "stacked", Stacked(dish, forest, 2), False
    yield "stacked_untrained", Stacked(FrozenDish(dish), process), False
    vectors = SupportVectors(features)
    columns = (FrozenDish(dish), Cost("length", cost), vectors)
    yield "columns", ColumnRegressor(columns, vectors, 2), False
    judges = (FrozenDish(dish), Cost("length", cost))
    yield "mean_rank", MeanRank(judges), False
    yield "calibrated", Calibrated(judges), False
    yield "mlp", Mlp(features, steps=20), False
    yield "support_vectors", vectors, False
    yield "ranked", RankTargets(vectors), False
    yield "tuned", Tuned((vectors, SupportVectors(features, penalty=3.0)), 2), False
    yield "bananas", Bananas(features, members=2, layers=1, width=4, epochs=20), False
    yield "cost", Cost("length", cost), False
    yield "partial_training", PartialTraining(lookup, 1, budget=4), True
    yield "power_law", PowerLaw(lookup, (1, 2, 3), budget=4), True
    yield "curve_regression", CurveRegression(lookup, (1, 2), 4, vectors), True
    states = problem.hidden_states(family) if problem.hidden_states else None
    yield "proxy", Proxy("snip", family, states, draws=2, samples=3), True
    if problem.proxies is not None:
        shown = problem.proxies(2)
        network = ImageNetwork(family, shown["snip"].network.trace)
        yield "image_proxy", dataclasses.replace(shown["snip"], network=network, samples=3), True
        yield "az_nas", shown["az_nas"], False
    if problem.tokens:
        yield "nao", NaoPredictor(problem.tokens, NAO), False
    for name, rival in problem.rivals.items():
        yield name, rival, False


def cases(problem: Problem) -> list[Case]:
    """Return every surrogate that a problem can have, on a few of its motifs."""
    cells = Cells.of(problem.space, problem.space.sample(jax.random.key(0), 16))
    assert len(set(cells.names)) == 16
    archs, new = (archs_lib.take(cells.archs, part) for part in (slice(8), slice(8, 16)))
    vectors = np.asarray(problem.features.features(archs), float)
    scores = 0.9 + 0.05 * np.sin(3 * vectors @ np.linspace(1, 2, vectors.shape[1]))
    # Few digits: sums of them are exact, so that a forest's ties are ties in every unit.
    scores = np.round(1024 * scores) / 1024
    marked = archs_lib.unstack(new)[5]
    return [
        Case(f"{problem.name}-{name}", surrogate, archs, scores, new, fails & (np.arange(8) == 5))
        for name, surrogate, fails in surrogates(problem, marked)
    ]


CASES = [case for problem in tiny_problems() for case in cases(problem)]
FREE = [case for case in CASES if isinstance(case.surrogate, ScoreFree)]
LEARNERS = [case for case in CASES if case not in FREE]
RESUMABLE = [case for case in CASES if isinstance(case.surrogate, ResumableSurrogate)]


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def parameters(method):
    return list(inspect.signature(method).parameters.values())


@each(CASES)
def test_methods_take_what_the_protocol_says(case):
    own = ResumableSurrogate if case in RESUMABLE else Surrogate
    free = (case.surrogate, ScoreFree, ("prepare",) if case in FREE else ())
    for instance, contract, names in (
        (case.surrogate, own, ("fit", "load")),
        (case.fitted, protocol.Fitted, ("predict", "save")),
        free,
    ):
        for name in names:
            expected = parameters(getattr(contract, name))[1:]
            found = parameters(getattr(instance, name))
            assert [(p.name, p.kind) for p in found[: len(expected)]] == [
                (p.name, p.kind) for p in expected
            ]
            for extra in found[len(expected) :]:  # callers need not know them
                assert extra.kind is extra.KEYWORD_ONLY
                assert extra.default is not extra.empty


@each(CASES)
def test_predictions_are_64_bit_numbers_and_failures_are_nan(case):
    assert type(case.predictions) is np.ndarray
    assert case.predictions.shape == (8,)
    assert case.predictions.dtype == np.float64
    np.testing.assert_array_equal(np.isnan(case.predictions), case.failed)
    assert not np.isinf(case.predictions).any()


@each(CASES)
def test_the_same_key_and_scores_give_the_same_predictions(case):
    np.testing.assert_array_equal(case.fit().predict(case.new), case.predictions)


@each(LEARNERS)
def test_predictions_are_in_the_unit_of_the_scores(case):
    other = case.fit(1024 * case.scores - 700).predict(case.new)
    tolerance = 0.02 * case.scores.std()
    np.testing.assert_allclose((other + 700) / 1024, case.predictions, rtol=0, atol=tolerance)


@each(LEARNERS)
def test_equal_scores_are_predicted_or_refused(case):
    try:
        found = case.fit(np.full(8, 0.25)).predict(case.new)
    except UserError as error:  # a dish has nothing to learn from them
        found = str(error)
    if isinstance(found, str):
        assert "nothing to learn" in found
    else:
        np.testing.assert_array_equal(np.isnan(found), case.failed)
        np.testing.assert_allclose(found[~case.failed], 0.25, atol=1e-6)


@each(LEARNERS)
def test_failed_motifs_are_left_out_of_the_fit(case):
    before, after = (archs_lib.take(case.new, part) for part in (slice(2), slice(2, 3)))
    archs = archs_lib.concatenate(archs_lib.concatenate(before, case.archs), after)
    scores = np.concatenate([[np.nan, np.inf], case.scores, [-np.inf]])
    fitted = case.surrogate.fit(KEY, archs, scores)
    np.testing.assert_array_equal(fitted.predict(case.new), case.predictions)


@each(LEARNERS)
def test_too_few_scores_and_wrong_lengths_are_refused(case):
    with pytest.raises(UserError, match="1 of 8 scores are finite"):
        case.fit(np.where(np.arange(8) == 3, 0.5, np.nan))
    for scores in (case.scores[:-1], case.scores[:, None]):
        with pytest.raises(UserError, match="give one score for each motif"):
            case.fit(scores)


@each(FREE)
def test_a_score_free_surrogate_looks_at_no_motif_and_no_score(case):
    for fitted in (
        case.surrogate.prepare(KEY),
        case.surrogate.fit(KEY, archs_lib.take(case.new, slice(1)), [np.nan]),
    ):
        np.testing.assert_array_equal(fitted.predict(case.new), case.predictions)


# Long fits


def figures(steps):
    return [(step.done, step.total, step.phase, step.losses.tolist()) for step in steps]


@each(RESUMABLE)
def test_a_fit_that_ends_after_any_step_goes_on_to_the_same_bits(case, tmp_path):
    steps: list[protocol.FitStep] = []
    whole = case.fit(on_step=steps.append)
    np.testing.assert_array_equal(whole.predict(case.new), case.predictions)
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))
    assert len(steps) >= CONFIG.outer_steps
    assert all(step.done <= step.total for step in steps)
    for taken, step in enumerate(steps, 1):
        files.save_pytree(tmp_path / "state.npz", step.state)
        state = files.load_pytree(tmp_path / "state.npz", case.surrogate.start(KEY))
        rest: list[protocol.FitStep] = []
        fitted = case.fit(state=state, on_step=rest.append)
        assert figures(rest) == figures(steps[taken:])
        np.testing.assert_array_equal(fitted.predict(case.new), case.predictions)
    from_start = case.fit(state=case.surrogate.start(KEY))
    np.testing.assert_array_equal(from_start.predict(case.new), case.predictions)


class KilledError(Exception):
    """A run ends here."""


@each(RESUMABLE)
def test_an_error_of_the_one_who_watches_ends_the_fit(case):
    def on_step(step):
        raise KilledError

    with pytest.raises(KilledError):
        case.fit(on_step=on_step)


# Files


@each(CASES)
def test_save_and_load_give_identical_predictions(case, tmp_path):
    case.fitted.save(tmp_path / "folder" / "fitted.npz")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["fitted.npz"]
    with np.load(tmp_path / "folder" / "fitted.npz", allow_pickle=False) as saved:
        assert all(saved[name].dtype != object for name in saved.files)
    loaded = case.surrogate.load(tmp_path / "folder" / "fitted.npz")
    np.testing.assert_array_equal(loaded.predict(case.new), case.predictions)
    loaded.save(tmp_path / "no_suffix")
    assert (tmp_path / "no_suffix").is_file()
    again = case.surrogate.load(tmp_path / "no_suffix")
    np.testing.assert_array_equal(again.predict(case.new), case.predictions)


@each(CASES)
def test_a_file_of_something_else_is_refused(case, tmp_path):
    path = tmp_path / "bad.npz"
    with pytest.raises(UserError, match=r"bad\.npz is missing"):
        case.surrogate.load(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"bad\.npz cannot be read"):
        case.surrogate.load(path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(UserError, match=r"bad\.npz cannot be read"):
        case.surrogate.load(path)
    np.savez(path, kind=np.array([{}], dtype=object))  # a pickle is never loaded
    with pytest.raises(UserError, match=r"bad\.npz cannot be read"):
        case.surrogate.load(path)
    files.save_arrays(path, {}, kind="Oracle")
    with pytest.raises(UserError, match=r"bad\.npz is of 'Oracle', not of "):
        case.surrogate.load(path)


@each(CASES)
def test_a_damaged_file_is_refused(case, tmp_path):
    case.fitted.save(tmp_path / "good.npz")
    whole = (tmp_path / "good.npz").read_bytes()
    with np.load(tmp_path / "good.npz") as saved:
        kind, arrays = str(np.atleast_1d(saved["kind"])[0]), dict(saved)
    del arrays["kind"]
    path = tmp_path / "bad.npz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"bad\.npz"):
        case.surrogate.load(path)
    for name in arrays:
        others = {other: array for other, array in arrays.items() if other != name}
        files.save_arrays(path, others, kind=kind)
        with pytest.raises(UserError, match=r"bad\.npz"):
            case.surrogate.load(path)
        files.save_arrays(path, others | {name: np.zeros((3, 5))}, kind=kind)
        with pytest.raises(UserError, match=r"bad\.npz"):
            case.surrogate.load(path)
