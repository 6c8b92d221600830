"""Algorithm 1: propose many cells, rank them by a surrogate, evaluate the best few.

Rawal et al., section 3.3 and Algorithm 1. Any space, surrogate, proposer and ground truth
will do. The history is a function of the key and of what the ground truth answers, so a
search that was killed is simply called again: what it bought comes from the ledger.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from spd_jax.axes import Arch, Archs, Key
from spd_jax.errors import UserError
from spd_jax.metrics import kendall_tau
from spd_jax.motif import SearchSpace
from spd_jax.search import protocol
from spd_jax.search.protocol import Evaluator, Proposer
from spd_jax.surrogates.protocol import Fitted, Surrogate


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Sizes of a search; the defaults are the paper's, 100 ground truths in all.

    Attributes:
      warm_start: random cells evaluated before the first iteration.
      iterations: how many; more of them continue the same search.
      proposals: M, cells that the surrogate ranks in an iteration; not used without one.
      evaluations: K, cells evaluated in an iteration.
    """

    warm_start: int = 40
    iterations: int = 3
    proposals: int = 100
    evaluations: int = 20


class Iteration(NamedTuple):
    """What one iteration bought; number 0 is the warm start.

    Attributes:
      index: its number.
      cells: canonical texts `[K]`, in order of purchase.
      predicted: the surrogate's scores `[K]` float64, in its unit, highest first; NaN where it
        gave none, in the warm start, and without a surrogate.
      scores: ground truth on validation data `[K]` float64, higher is better; NaN = failed.
      test_scores: the same on test data; NaN also where it was not measured.
      tau: Kendall's tau-b of `predicted` and `scores`; NaN without a surrogate.
      cost: ground truths spent so far, in full evaluations, the surrogate's own included.
      seconds: spent in proposing, fitting and predicting; not in evaluating
        (unless a surrogate does).
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    cells: list[str]
    predicted: np.ndarray
    scores: np.ndarray
    test_scores: np.ndarray
    tau: float
    cost: float
    seconds: float


class Best(NamedTuple):
    """The cell that is best on validation data.

    Attributes:
      cell: canonical text.
      score: on validation data, higher is better.
      test_score: on test data, not looked at in choosing.
    """

    cell: str
    score: float
    test_score: float


# Number of the iteration, surrogate, key (consumed), known archs [K] and their scores [K].
Fit = Callable[[int, Surrogate, Key, Archs, np.ndarray], Fitted]


def search(
    key: Key,
    space: SearchSpace,
    ground_truth: Evaluator,
    proposer: Proposer,
    *,
    surrogate: Surrogate | None = None,
    config: SearchConfig = SearchConfig(),
    seed: int = 0,
    fit: Fit | None = None,
    on_iteration: Callable[[Iteration], Any] = lambda iteration: None,
) -> list[Iteration]:
    """Run Algorithm 1.

    With a surrogate, each iteration fits it to every known cell, asks the proposer for
    `proposals` cells, and evaluates those `evaluations` that it predicts to be best (a
    prediction of NaN ranks last). Without one, the proposer is asked for `evaluations` cells,
    and all of them are evaluated. Proposer and surrogate see cells in canonical form, as the
    ledger names them.

    Args:
      key: consumed. Searches with the same key, space and `warm_start` share their warm start.
      space: of the cells.
      ground_truth: what is bought, for example a `ground_truth.purchase.GroundTruth`.
      proposer: chooses cells.
      surrogate: ranks them; when it trains motifs for real, it has an attribute
        `cost_per_query`: the full evaluations that one prediction costs.
      config: sizes.
      seed: of every evaluation.
      fit: called instead of `surrogate.fit`, with the iteration's number in front, so that a
        fit can be saved and found again; it must return what `surrogate.fit` would.
      on_iteration: called after the warm start and after every iteration.

    Returns:
      The warm start and every iteration, in order.

    Raises:
      UserError: sizes that cannot be, a space with too few cells, a warm start of which every
        cell failed, or a proposer that returns too few new ones.
    """
    check(config, ranked=surrogate is not None)
    state = _State(space, ground_truth, seed)
    began = time.perf_counter()
    cells = warm_start(key, space, config.warm_start)
    on_iteration(state.buy(cells, None, time.perf_counter() - began))
    for index in range(1, config.iterations + 1):
        began = time.perf_counter()
        propose_key, fit_key = jax.random.split(jax.random.fold_in(key, index))
        count = config.evaluations if surrogate is None else config.proposals
        cells = _propose(proposer, propose_key, state, count)
        predicted = None
        if surrogate is not None:
            learn = _fit if fit is None else fit
            fitted = learn(index, surrogate, fit_key, protocol.stack(state.cells), state.scores)
            predicted = _predict(fitted, cells)
            state.cost += len(cells) * getattr(surrogate, "cost_per_query", 0.0)
            chosen = protocol.ranking(predicted)[: config.evaluations]
            cells, predicted = [cells[i] for i in chosen], predicted[chosen]
        on_iteration(state.buy(cells, predicted, time.perf_counter() - began))
    return state.history


def warm_start(key: Key, space: SearchSpace, count: int) -> list[Arch]:
    """Return the random cells that `search` evaluates first, distinct and in canonical form.

    Args:
      key: the one that the search is given.
      space: of the cells.
      count: how many; up to 40, fewer are the first of more.

    Raises:
      UserError: the space has not so many.
    """
    key = jax.random.fold_in(key, 0)
    drawn = space.sample(key, 2 * max(count, 40))
    cells = _canonical(space, protocol.fresh(space, drawn, set()))
    if len(cells) < count:  # a small space repeats itself
        cells = _canonical(space, protocol.collect(key, space, None, count=count))
    return cells[:count]


def best(history: Sequence[Iteration]) -> Best:
    """Return the cell with the highest validation score, the one bought first among equals.

    Args:
      history: of a search, or the first iterations of it.

    Raises:
      UserError: every evaluation failed.
    """
    rows = [
        Best(cell, float(score), float(test_score))
        for step in history
        for cell, score, test_score in zip(step.cells, step.scores, step.test_scores, strict=True)
    ]
    index = protocol.ranking(np.array([row.score for row in rows]))[0]
    if not math.isfinite(rows[index].score):
        raise UserError(f"all {len(rows)} evaluations failed: read in the ledger why")
    return rows[index]


def check(config: SearchConfig, *, ranked: bool) -> None:
    """Refuse sizes that cannot be; `ranked` says that there is a surrogate."""
    for field, least in {
        "warm_start": 1,
        "iterations": 0,
        "proposals": 1,
        "evaluations": 1,
    }.items():
        if getattr(config, field) < least:
            raise UserError(f"{field}={getattr(config, field)} must be at least {least}")
    if ranked and config.evaluations > config.proposals:
        raise UserError(
            f"evaluations={config.evaluations} must not exceed proposals={config.proposals}, "
            "the cells they are chosen from"
        )


@dataclasses.dataclass
class _State:
    """What a search knows: every cell bought `[K]`, its score, and what all of it cost."""

    space: SearchSpace
    ground_truth: Evaluator
    seed: int
    cells: list[Arch] = dataclasses.field(default_factory=list)
    history: list[Iteration] = dataclasses.field(default_factory=list)
    cost: float = 0.0

    @property
    def scores(self) -> np.ndarray:
        return np.concatenate([iteration.scores for iteration in self.history])

    def buy(self, cells: list[Arch], predicted: np.ndarray | None, seconds: float) -> Iteration:
        """Evaluate cells and append the iteration that chose them."""
        names = [protocol.name(self.space, cell) for cell in cells]
        bought = [seeds[0] for seeds in self.ground_truth.evaluate(names, (self.seed,))]
        ok = [evaluation.status == "ok" for evaluation in bought]
        if not self.history and not any(ok):
            why = (bought[0].error.strip().splitlines() or ["no reason was given"])[-1]
            raise UserError(
                f"all {len(names)} cells of the warm start failed, the first with: {why}; mend it, "
                "let `python -m spd_jax.ledger retry FILE` forget them, and run again"
            )
        scores, test_scores = (
            np.where(ok, np.array([getattr(x, field) for x in bought], np.float64), np.nan)
            for field in ("score", "test_score")
        )
        tau = math.nan if predicted is None else kendall_tau(predicted, scores)
        if predicted is None:
            predicted = np.full(len(names), np.nan)
        self.cost += len(names)
        self.cells += cells
        index = len(self.history)
        self.history.append(
            Iteration(index, names, predicted, scores, test_scores, tau, self.cost, seconds)
        )
        return self.history[-1]


def _propose(proposer: Proposer, key: Key, state: _State, count: int) -> list[Arch]:
    """Return `count` new cells in canonical form; a proposer that repeats itself is refused."""
    space, archs = state.space, protocol.stack(state.cells)
    proposed = proposer.propose(key, space, archs, state.scores, count)
    new = protocol.fresh(space, proposed, set(protocol.hashes(space, archs)))
    cells = _canonical(space, new)
    if len(cells) < count:
        raise UserError(
            f"{type(proposer).__name__} proposed {len(cells)} new cells, not {count}: let it "
            "return distinct cells that are not known (search.protocol.collect finds them)"
        )
    return cells[:count]


def _fit(index: int, surrogate: Surrogate, key: Key, archs: Archs, scores: np.ndarray) -> Fitted:
    del index
    return surrogate.fit(key, archs, scores)


def _predict(fitted: Fitted, cells: list[Arch]) -> np.ndarray:
    predicted = np.asarray(fitted.predict(protocol.stack(cells)), np.float64)
    if predicted.shape != (len(cells),):
        raise UserError(
            f"the surrogate predicted shape {predicted.shape} for {len(cells)} cells: "
            "return one score for each"
        )
    return predicted


def _canonical(space: SearchSpace, archs: Archs) -> list[Arch]:
    """Return the cells of a batch as the ledger's texts give them, whatever their numbering was."""
    return [space.decode(protocol.name(space, arch)) for arch in protocol.unstack(archs)]
