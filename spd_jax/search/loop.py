"""Algorithm 1: propose many cells, rank them by a surrogate, evaluate the best few.

Rawal et al., section 3.3 and Algorithm 1. Any space, surrogate, proposer and ground truth
will do. The record is a function of the key and of what the ground truth answers, so a
search that was killed is simply called again: what it bought comes from the ledger.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from spd_jax import archs as batches
from spd_jax.archs import Cells
from spd_jax.axes import Archs, Key
from spd_jax.checks import is_count
from spd_jax.errors import UserError
from spd_jax.ledger import Evaluation
from spd_jax.metrics import kendall_tau
from spd_jax.motif import SearchSpace
from spd_jax.search import protocol
from spd_jax.search.protocol import Evaluator, Proposer
from spd_jax.search.record import Choice, Iteration, Record, fingerprint
from spd_jax.surrogates.protocol import CostlySurrogate, Fitted, Surrogate


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


LARGEST_SIZE = 10**6  # of what a search counts

# Number of the iteration, surrogate, key (consumed), known archs [K] and their scores [K].
Fit = Callable[[int, Surrogate, Key, Archs, np.ndarray], Fitted]


def fit_only(
    index: int, surrogate: Surrogate, key: Key, archs: Archs, scores: np.ndarray
) -> Fitted:
    """Fit and keep nothing."""
    del index
    return surrogate.fit(key, archs, scores)


class Proposed(NamedTuple):
    """A proposal, and the seconds that it took to find, whichever run found it."""

    proposal: protocol.Proposal
    seconds: float


# Proposer, key (consumed), space, known cells [K], their scores [K], and how many to propose.
Propose = Callable[[Proposer, Key, SearchSpace, Cells, np.ndarray, int], Proposed]


def propose_only(
    proposer: Proposer, key: Key, space: SearchSpace, known: Cells, scores: np.ndarray, count: int
) -> Proposed:
    """Propose and keep nothing."""
    began = time.perf_counter()
    proposal = proposer.propose(key, space, known, scores, count)
    return Proposed(proposal, time.perf_counter() - began)


def search(
    key: Key,
    space: SearchSpace,
    ground_truth: Evaluator,
    proposer: Proposer,
    *,
    surrogate: Surrogate | None = None,
    config: SearchConfig = SearchConfig(),
    seed: int = 0,
    fit: Fit = fit_only,
    propose: Propose = propose_only,
    recall: Callable[[int], Choice | None] = lambda index: None,
    on_choice: Callable[[int, Choice], Any] = lambda index, choice: None,
    on_iteration: Callable[[Iteration], Any] = lambda iteration: None,
) -> Record:
    """Run Algorithm 1.

    With a surrogate, each iteration fits it to every known cell, asks the proposer for
    `proposals` cells, and evaluates those `evaluations` that it predicts to be best (a
    prediction of NaN ranks last). Without one, the proposer is asked for `evaluations` cells,
    and all of them are evaluated.

    Args:
      key: consumed. Searches with the same key, space and `warm_start` share their warm start.
      space: of the cells.
      ground_truth: what is bought, for example a `ground_truth.purchase.GroundTruth`.
      proposer: chooses cells.
      surrogate: ranks them; a `CostlySurrogate` also spends ground truths.
      config: sizes.
      seed: of every evaluation.
      fit: called instead of `surrogate.fit`, with the iteration's number in front, so that a
        fit can be saved and found again; it must return what `surrogate.fit` would.
      propose: called instead of `proposer.propose`, so that a proposal can be saved and found
        again, before the surrogate is fitted.
      recall: returns what an earlier run handed to `on_choice` for an iteration, or None. It
        is used if it was made from the same cells and scores and has as many cells as
        `config.evaluations`, so that the search goes on alike on a machine that rounds
        differently.
      on_choice: called before an iteration buys anything.
      on_iteration: called after the warm start and after every iteration.

    Returns:
      The warm start and every iteration, in order.

    Raises:
      UserError: sizes that cannot be, a space with too few cells or whose `decode` does not
        undo its `encode`, a warm start of which every cell failed, or a proposer that returns
        too few new ones.
    """
    check(config, ranked=surrogate is not None)
    state = _State(ground_truth, seed)
    cells, choice = begin(key, space, config.warm_start)
    on_iteration(state.buy(cells, choice, ranked=False))
    for index in range(1, config.iterations + 1):
        recalled = recall(index)
        if (
            recalled is not None
            and recalled.known == state.fingerprint
            and len(recalled.cells) == config.evaluations
        ):
            cells, choice = Cells.read(space, recalled.cells), recalled
        else:
            known, scores = state.known, state.scores
            cells, choice = choose(
                index, key, space, known, scores,
                proposer=proposer, surrogate=surrogate, config=config, fit=fit,
                propose=propose,
            )  # fmt: skip
            on_choice(index, choice)
        on_iteration(state.buy(cells, choice, ranked=surrogate is not None))
    return state.record


def begin(key: Key, space: SearchSpace, count: int) -> tuple[Cells, Choice]:
    """Return the warm start as what is bought first; raises UserError as `search` does."""
    began = time.perf_counter()
    cells = warm_start(key, space, count)
    check_names(space, cells)
    nothing = np.full(len(cells), np.nan)
    return cells, Choice(cells.names, nothing, seconds=time.perf_counter() - began)


def warm_start(key: Key, space: SearchSpace, count: int) -> Cells:
    """Return the random cells that `search` evaluates first, all different.

    Args:
      key: the one that the search is given.
      space: of the cells.
      count: how many; up to 40, fewer are the first of more.

    Raises:
      UserError: the space has not so many.
    """
    key = jax.random.fold_in(key, 0)
    cells = protocol.fresh(protocol.born(space, space.sample(key, 2 * max(count, 40))), ())
    if len(cells) < count:  # a small space repeats itself
        cells = protocol.collect(key, space, (), count=count).cells
    return cells.take(range(count))


def check(config: SearchConfig, *, ranked: bool) -> None:
    """Refuse sizes that cannot be; `ranked` says that there is a surrogate."""
    for field, least in {
        "warm_start": 1,
        "iterations": 0,
        "proposals": 1,
        "evaluations": 1,
    }.items():
        size = getattr(config, field)
        if not is_count(size, least, LARGEST_SIZE):
            raise UserError(
                f"{field}={size} must be a whole number of at least {least}, and at most "
                f"{LARGEST_SIZE}"
            )
    if ranked and config.evaluations > config.proposals:
        raise UserError(
            f"evaluations={config.evaluations} must not exceed proposals={config.proposals}, "
            "the cells they are chosen from"
        )


def check_names(space: SearchSpace, cells: Cells) -> None:
    """Refuse a space in which a cell's name does not lead back to the cell.

    Raises:
      UserError: `decode` of a name is another cell.
    """
    for name, cell in zip(cells.names, batches.unstack(cells.archs), strict=True):
        if not isinstance(name, str):
            raise UserError(f"the space's encode returned {name!r:.60}: return a text")
        back, leaves = jax.tree.leaves(space.decode(name)), jax.tree.leaves(cell)
        if len(back) != len(leaves) or not all(map(np.array_equal, back, leaves)):
            raise UserError(
                f"decode({name!r}) is another cell than the one that encode named so: "
                "let the space's decode undo its encode, and its canonical give one form"
            )
        again = space.encode(space.canonical(space.decode(name)))
        if again != name:
            raise UserError(
                f"the canonical form of the cell {name!r} is {again!r}: let the space's canonical "
                "leave alone what is in canonical form"
            )


@dataclasses.dataclass
class _State:
    """What a search knows: every cell bought, in order."""

    ground_truth: Evaluator
    seed: int
    cells: Cells | None = None
    record: Record = dataclasses.field(default_factory=list)

    @property
    def known(self) -> Cells:
        """The cells bought so far, once there are any."""
        assert self.cells is not None
        return self.cells

    @property
    def scores(self) -> np.ndarray:
        """Their scores `[K]`."""
        return np.concatenate([iteration.scores for iteration in self.record])

    @property
    def fingerprint(self) -> str:
        """Of cells and scores: what the next choice is made from."""
        return fingerprint(self.known.names, self.scores)

    def buy(self, cells: Cells, choice: Choice, *, ranked: bool) -> Iteration:
        """Evaluate the cells of a choice, `ranked` by a surrogate, and record the iteration."""
        bought = [seeds[0] for seeds in self.ground_truth.evaluate(cells.names, (self.seed,))]
        self.cells = cells if self.cells is None else self.cells.joined(cells)
        return add_iteration(self.record, choice, bought, ranked=ranked)


def add_iteration(
    record: Record, choice: Choice, bought: Sequence[Evaluation], *, ranked: bool
) -> Iteration:
    """Append to a record what a choice came to, and return it.

    Args:
      record: the iterations before it; the first one is the warm start.
      choice: what was bought, and why.
      bought: the evaluation of each of its cells.
      ranked: whether a surrogate predicted their scores.

    Raises:
      UserError: every cell of the warm start failed.
    """
    ok = [evaluation.status == "ok" for evaluation in bought]
    if not record and not any(ok):
        why = (bought[0].error.strip().splitlines() or ["no reason was given"])[-1]
        raise UserError(
            f"all {len(bought)} cells of the warm start failed, the first with: {why}; mend "
            "it, let `python -m spd_jax.ledger retry FILE` forget them, and run again"
        )
    scores, test_scores = (
        np.where(ok, np.array([getattr(x, field) for x in bought], np.float64), np.nan)
        for field in ("score", "test_score")
    )
    tau = kendall_tau(choice.predicted, scores) if ranked else math.nan
    cost = (record[-1].cost if record else 0.0) + choice.cost + len(bought)
    record.append(
        Iteration(
            len(record), choice.cells, choice.predicted, scores, test_scores, tau, cost,
            choice.seconds, choice.notes,
        )
    )  # fmt: skip
    return record[-1]


def choose(
    index: int,
    key: Key,
    space: SearchSpace,
    known: Cells,
    scores: np.ndarray,
    *,
    pending: Cells | None = None,
    proposer: Proposer,
    surrogate: Surrogate | None,
    config: SearchConfig,
    fit: Fit,
    propose: Propose = propose_only,
) -> tuple[Cells, Choice]:
    """Return the cells that an iteration evaluates, with what the surrogate said of them.

    Args:
      index: number of the iteration, at least 1.
      key: that of the search.
      space: of the cells.
      known: every cell whose evaluation has ended.
      scores: their ground truth `[K]` float64, higher is better; NaN = failed.
      pending: cells that are being evaluated. The proposer is told of them as of failed ones, so
        that they are neither proposed again nor anybody's parents; the surrogate learns nothing
        from them.
      proposer: as in `search`, likewise what follows.
      surrogate: None evaluates what is proposed.
      config: sizes.
      fit: called instead of `surrogate.fit`.
      propose: called instead of `proposer.propose`.

    Raises:
      UserError: the proposer returns too few new cells, or a surrogate another number of scores.
    """
    propose_key, fit_key = jax.random.split(jax.random.fold_in(key, index))
    wanted = config.evaluations if surrogate is None else config.proposals
    seen, told = known, scores
    if pending is not None and len(pending):
        seen, told = known.joined(pending), np.append(scores, np.full(len(pending), np.nan))
    proposal, proposing = propose(proposer, propose_key, space, seen, told, wanted)
    began = time.perf_counter()
    cells = protocol.fresh(proposal.cells, set(seen.names))
    if len(cells) < wanted:
        raise UserError(
            f"{type(proposer).__name__} proposed {len(cells)} new cells, not {wanted}: let it "
            "return distinct cells that are not known (search.protocol.collect finds them)"
        )
    cells, predicted = cells.take(range(wanted)), np.full(wanted, np.nan)
    cost = training = 0.0
    if surrogate is not None:
        fitted = fit(index, surrogate, fit_key, known.archs, scores)
        asked = time.perf_counter()
        predicted = _predict(fitted, cells)
        chosen = protocol.ranking(predicted)[: config.evaluations]
        if isinstance(surrogate, CostlySurrogate):
            # What it spent on the chosen cells is the beginning of their evaluations.
            cost = (wanted - len(chosen)) * surrogate.cost_per_query
            # It predicts by training, which takes the seconds of evaluations.
            training = time.perf_counter() - asked
        cells, predicted = cells.take(chosen), predicted[chosen]
    seconds = proposing + time.perf_counter() - began - training
    return cells, Choice(
        cells.names, predicted, cost, seconds, proposal.notes, fingerprint(known.names, scores)
    )


def _predict(fitted: Fitted, cells: Cells) -> np.ndarray:
    predicted = np.asarray(fitted.predict(cells.archs), np.float64)
    if predicted.shape != (len(cells),):
        raise UserError(
            f"the surrogate predicted shape {predicted.shape} for {len(cells)} cells: "
            "return one score for each"
        )
    return predicted
