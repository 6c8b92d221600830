"""Optuna with a dish inside: a sampler, a pruner of learning curves, and ledgers as studies.

The sampler ranks many proposals before each trial and suggests the best. Proposals come from any
other sampler of Optuna's, so that every space that `suggest_*` can describe will do, conditional
ones too.
"""

import contextlib
import datetime
import hashlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from spd_jax import archs as archs_lib
from spd_jax.axes import Arch
from spd_jax.checks import is_count, is_number
from spd_jax.errors import UserError
from spd_jax.ledger import Ledger
from spd_jax.ledger.evaluation import Purchase
from spd_jax.search.protocol import ranking
from spd_jax.surrogates.learning_curves import FEWEST_POINTS, extrapolated
from spd_jax.surrogates.protocol import Surrogate

ToArch = Callable[[BaseTrial], Arch]
LONGEST_NAME = 400  # of a study: Optuna's databases take 512 letters


class Proposed(NamedTuple):
    """What a trial may try.

    Attributes:
      arch: one arch.
      params: values of the parameters that `to_arch` asked for, by name.
      distributions: what they were drawn from, by name.
    """

    arch: Arch
    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]


class DishSampler(BaseSampler):
    """Algorithm 1 as a sampler: propose many, rank them by a surrogate, suggest the best.

    Until `n_startup_trials` trials are complete, parameters are sampled one by one by the
    `independent_sampler`; so is, later, every parameter that `to_arch` does not ask for. With equal
    seeds, and one trial at a time, equal studies get equal suggestions.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        to_arch: ToArch,
        *,
        proposals: int = 100,
        trials_per_fit: int = 1,
        n_startup_trials: int = 10,
        proposer: BaseSampler | None = None,
        independent_sampler: BaseSampler | None = None,
        seed: int = 0,
    ) -> None:
        """Keep the settings.

        Args:
          surrogate: ranks, such as `DishSurrogate(family, config)`; it is fitted to all complete
            trials.
          to_arch: `to_arch(trial) -> arch` asks a trial for its parameters by `suggest_*` and
            returns one arch. The objective calls it, too.
          proposals: M, how many are ranked after each fit.
          trials_per_fit: K, how many of the best of them are tried before the next fit.
          n_startup_trials: complete trials before the first fit, at least 2.
          proposer: sampler of Optuna's that proposes, and sees the complete trials; None: random.
          independent_sampler: see above; None: random.
          seed: of proposals and fits.

        Raises:
          UserError: a number that is too small, or more trials per fit than proposals.
        """
        for name, value, least in (
            ("proposals", proposals, 1),
            ("trials_per_fit", trials_per_fit, 1),
            ("n_startup_trials", n_startup_trials, 2),
            ("seed", seed, 0),
        ):
            if not is_count(value, least):
                raise UserError(f"{name}={value!r} must be a whole number of at least {least}")
        if trials_per_fit > proposals:
            raise UserError(
                f"trials_per_fit={trials_per_fit} must not exceed proposals={proposals}"
            )
        self._surrogate = surrogate
        self._to_arch = to_arch
        self._proposals = proposals
        self._trials_per_fit = trials_per_fit
        self._n_startup_trials = n_startup_trials
        self._proposer = proposer or RandomSampler(seed + 1)
        self._independent = independent_sampler or RandomSampler(seed)
        self._seed = seed
        self._best: list[Proposed] = []  # what the last fit ranked best, in order
        self._chosen: dict[int, Proposed] = {}  # by number of the trial that is beginning
        self._lock = threading.Lock()  # `optimize(n_jobs=...)` samples from several threads

    def __getstate__(self) -> dict[str, Any]:
        """Return what is saved: all but the lock."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what was saved."""
        self.__dict__.update(state, _lock=threading.Lock())

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Choose the trial's parameters, and return their distributions; {} while starting up.

        Raises:
          UserError: a study of several directions, or what the surrogate's `fit` refuses.
        """
        with self._lock:
            tried = [own.params for own in study.get_trials(deepcopy=False) if own.params]
            self._best = [own for own in self._best if not _is_among(own.params, tried)]
            self._best = self._best or self._ranked(study, trial.number, tried)
            if not self._best:
                return {}
            chosen = self._chosen[trial.number] = self._best.pop(0)
            return chosen.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters that `infer_relative_search_space` chose."""
        chosen = self._chosen.pop(trial.number, None)
        return {} if chosen is None else chosen.params

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Sample one parameter by the independent sampler."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Let the samplers inside draw other numbers than in another process."""
        self._proposer.reseed_rng()
        self._independent.reseed_rng()

    def _ranked(
        self, study: Study, number: int, tried: Sequence[Mapping[str, Any]]
    ) -> list[Proposed]:
        """Return what to try from trial `number` on, the best first; [] while starting up."""
        known, scores = _complete(study)
        if len(known) < self._n_startup_trials or np.ptp(scores) == 0:
            return []
        proposed = self._propose(study, known, tried)
        if not proposed:
            return []
        archs = archs_lib.stack([self._to_arch(own) for own in known])
        key = jax.random.fold_in(jax.random.key(self._seed), number)
        fitted = self._surrogate.fit(key, archs, scores)
        predicted = fitted.predict(archs_lib.stack([own.arch for own in proposed]))
        return [proposed[place] for place in ranking(predicted)[: self._trials_per_fit]]

    def _propose(
        self, study: Study, known: Sequence[FrozenTrial], tried: Sequence[Mapping[str, Any]]
    ) -> list[Proposed]:
        """Return distinct proposals that were not tried; fewer in a space that is too small."""
        with _quiet():
            scratch = optuna.create_study(direction=study.direction, sampler=self._proposer)
        scratch.add_trials(known)
        proposed: list[Proposed] = []
        for _ in range(self._proposals):
            asked = scratch.ask()
            arch = self._to_arch(asked)
            if not _is_among(asked.params, [*tried, *(own.params for own in proposed)]):
                proposed.append(Proposed(arch, asked.params, asked.distributions))
        return proposed


def _complete(study: Study) -> tuple[list[FrozenTrial], np.ndarray]:
    """Return the trials with a finite score, and these scores `[K]`, higher is better."""
    if len(study.directions) != 1:
        raise UserError("a dish ranks by one score: give the study one direction")
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    known = [own for own in complete if own.value is not None and math.isfinite(own.value)]
    return known, _sign(study) * np.array([own.value for own in known], np.float64)


def _sign(study: Study) -> int:
    """Return what makes a study's values higher-is-better."""
    return 1 if study.direction == StudyDirection.MAXIMIZE else -1


def _is_among(params: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether parameters have these values in any of the others, which may have more."""
    return any(params.items() <= other.items() for other in others)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from telling the user of a study that is not his."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class CurvePruner(BasePruner):
    """Prunes a trial whose learning curve, drawn on to its end, falls short of the others.

    The curve is drawn on by a power law, see `surrogates.learning_curves.PowerLaw`. A step that a
    trial reports is a unit of training; the first may be 0 or 1. A curve that is not finite is
    pruned.
    """

    def __init__(
        self,
        budget: int,
        *,
        percentile: float = 50.0,
        n_startup_trials: int = 5,
        n_warmup_steps: int = FEWEST_POINTS,
    ) -> None:
        """Keep the settings.

        Args:
          budget: units of a full training.
          percentile: a trial goes on if it is drawn to an end among the best so many percent of
            the complete trials' values; 50 compares with their median.
          n_startup_trials: complete trials before the first is pruned, at least 1.
          n_warmup_steps: reports of a trial before it may be pruned, at least 3.

        Raises:
          UserError: a number that cannot be.
        """
        for name, value, least in (
            ("budget", budget, 1),
            ("n_startup_trials", n_startup_trials, 1),
            ("n_warmup_steps", n_warmup_steps, FEWEST_POINTS),
        ):
            if not is_count(value, least):
                raise UserError(f"{name}={value!r} must be a whole number of at least {least}")
        if not is_number(percentile, 0, 100):
            raise UserError(f"percentile={percentile!r} must be a number from 0 to 100")
        self._budget = budget
        self._percentile = percentile
        self._n_startup_trials = n_startup_trials
        self._n_warmup_steps = n_warmup_steps

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether the trial is to end here."""
        steps = sorted(trial.intermediate_values)
        if len(steps) < self._n_warmup_steps:
            return False
        _, scores = _complete(study)
        if len(scores) < self._n_startup_trials:
            return False
        units = tuple(step + (steps[0] == 0) for step in steps)
        if units[-1] >= self._budget:
            return False
        curve = _sign(study) * np.array([trial.intermediate_values[step] for step in steps])
        predicted = extrapolated(units, curve, self._budget)
        return not predicted >= np.percentile(scores, 100 - self._percentile)  # NaN is pruned


def export(
    ledger: Ledger,
    storage: str | BaseStorage,
    *,
    parameters: Callable[[str], Mapping[str, Any]] = lambda cell: {},
    distributions: Mapping[str, BaseDistribution] | None = None,
) -> list[Study]:
    """Write a ledger into a storage of Optuna's, which its dashboard opens.

    Scores of different spaces, tasks or budgets cannot be compared: each of these is a study of
    its own. A trial is an evaluation: its value is the score, its intermediate values are the
    curve; cell, seed, parent and whatever else was measured are user attributes. What was
    exported before is not written again.

    Args:
      ledger: may be open for reading only.
      storage: such as "sqlite:///studies.db".
      parameters: `parameters(cell)` returns the values of a trial's parameters by name, which
        the dashboard plots; by default there are none.
      distributions: of every parameter, by name.

    Returns:
      The studies, in order of purchase.

    Raises:
      UserError: a parameter without a distribution.
    """
    by_study: dict[str, list[Purchase]] = {}
    for purchase in ledger.purchases():
        by_study.setdefault(_study_name(purchase), []).append(purchase)
    studies = []
    for name, purchases in by_study.items():
        with _quiet():
            study = optuna.create_study(
                study_name=name, storage=storage, direction="maximize", load_if_exists=True
            )
        there = {_identity(own.user_attrs) for own in study.get_trials(deepcopy=False)}
        trials = (_trial(own, parameters, distributions or {}) for own in purchases)
        study.add_trials(own for own in trials if _identity(own.user_attrs) not in there)
        studies.append(study)
    return studies


def _study_name(purchase: Purchase) -> str:
    key = purchase.key
    name = f"{key.space}, budget {key.budget}, {key.task}"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]} {hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _identity(attributes: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells a trial from others of its study."""
    return tuple(attributes.get(name) for name in ("cell", "seed", "parent"))


def _trial(
    purchase: Purchase,
    parameters: Callable[[str], Mapping[str, Any]],
    distributions: Mapping[str, BaseDistribution],
) -> FrozenTrial:
    """Return an evaluation as a trial, with the times of its purchase."""
    key, own = purchase.key, purchase.evaluation
    params = dict(parameters(key.cell))
    missing = [name for name in params if name not in distributions]
    if missing:
        raise UserError(f"parameter {missing[0]!r} has no distribution: give one in distributions")
    numbers = {"test_score": own.test_score, "seconds": own.seconds}
    about = {"cell": key.cell, "seed": key.seed, "parent": key.parent, "unit": own.unit}
    about |= {name: number for name, number in numbers.items() if math.isfinite(number)}
    about |= {"error": own.error} if own.error else {}
    ok = own.status == "ok"
    trial = optuna.trial.create_trial(
        state=TrialState.COMPLETE if ok else TrialState.FAIL,
        value=own.score if ok else None,
        params=params,
        distributions={name: distributions[name] for name in params},
        user_attrs={**about, **({"info": dict(own.info)} if own.info else {})},
        intermediate_values=dict(enumerate(own.curve, start=1)),
    )
    bought = datetime.datetime.fromisoformat(purchase.bought_at).astimezone().replace(tzinfo=None)
    spent = own.seconds if math.isfinite(own.seconds) else 0.0
    trial.datetime_start = bought - datetime.timedelta(seconds=spent)
    trial.datetime_complete = bought
    return trial
