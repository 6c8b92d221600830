"""Ground truth that was computed before: tables of any space, and a task that answers from one."""

import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from typing import Any

import jax
import numpy as np

from spd_jax import archs as batches
from spd_jax import files, metrics
from spd_jax.archs import Cells
from spd_jax.axes import Archs, Key
from spd_jax.errors import UserError
from spd_jax.ground_truth.purchase import beginning
from spd_jax.ground_truth.task import ClosedTask, Progress, Task, no_progress
from spd_jax.ledger import Evaluation, EvaluationKey, Purchase, table
from spd_jax.motif import PartOfSpace, SearchSpace
from spd_jax.units import LARGEST_SCORE

Items = list[tuple[EvaluationKey, Evaluation]]
Reader = Callable[[files.Path], Items]
ROUNDS = 20  # of drawing cells of a whole space, before a `TabulatedSpace` draws from its table


@dataclasses.dataclass(frozen=True)
class TruthTable:
    """What M distinct motifs scored.

    Attributes:
      cells: the motifs, in order of first appearance.
      scores: `[M]` float64, mean over a motif's seeds, higher is better; NaN when one failed.
      seeds: M arrays, the scores of each motif in order of seed.
      curves: learning curves of each motif's first seed, higher is better, empty where there
        is none. That seed is part of the motif's score too, which favours partial training.
      budget: units of a full evaluation.
      unit: what a score is.
      space: name of the search space.
      task: fingerprint of what was evaluated; "" where the table does not say.
      source: the file.
    """

    cells: Cells
    scores: np.ndarray
    seeds: tuple[np.ndarray, ...]
    curves: tuple[tuple[float, ...], ...]
    budget: int
    unit: str
    space: str
    task: str
    source: pathlib.Path

    def __len__(self) -> int:
        """Return M."""
        return len(self.cells)

    @property
    def identity(self) -> str:
        """16 hexadecimal digits that motifs, scores and curves decide, wherever the file lies."""
        content = repr([list(self.cells.names), self.scores.tolist(), list(self.curves)])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def standard_error(self) -> np.ndarray:
        """Standard error of `scores` `[M]` float64: NaN with one seed, which tells nothing."""
        return np.array(
            [
                np.std(own, ddof=1) / math.sqrt(len(own)) if len(own) > 1 else math.nan
                for own in self.seeds
            ]
        )

    def noise_ceiling(self, seeds: int | None = None) -> dict[str, Any]:
        """Return how well one seed orders the motifs as the mean of the others does, for JSON.

        Args:
          seeds: how many of each motif's seeds to use, the first ones. Motifs that have fewer
            are left out. None uses as many as any motif has.

        Returns:
          `{"kendall_tau", "motifs", "seeds"}`: the mean over seeds, see `metrics.noise_ceiling`,
          None where fewer than three motifs or two seeds can tell; and of how many motifs and
          seeds of each.
        """
        most = max(map(len, self.seeds), default=0) if seeds is None else seeds
        rows = [own[:most] for own in self.seeds if len(own) >= most]
        tau = metrics.noise_ceiling(rows) if len(rows) >= 3 else None
        return {"kendall_tau": tau, "motifs": len(rows), "seeds": most}

    def take(self, indices: Sequence[int] | np.ndarray) -> "TruthTable":
        """Return the motifs at `indices` `[K]`, in that order."""
        chosen = [int(i) for i in indices]
        return dataclasses.replace(
            self,
            cells=self.cells.take(chosen),
            scores=self.scores[chosen],
            seeds=tuple(self.seeds[i] for i in chosen),
            curves=tuple(self.curves[i] for i in chosen),
        )

    def without(self, names: set[str]) -> "TruthTable":
        """Return the table without the motifs of these names."""
        return self.take([i for i, name in enumerate(self.cells.names) if name not in names])


def read(path: files.Path, space: SearchSpace, reader: Reader = table.read) -> TruthTable:
    """Read a table of ground truth, see `ledger.table.read`.

    Args:
      path: the file. Rows whose `space` is empty are taken for motifs of `space`.
      space: of the motifs.
      reader: reads the file's keys and evaluations; the default reads our own format.

    Returns:
      Its evaluations with the largest budget.

    Raises:
      UserError: the file is missing or no such table, holds evaluations of another space, of
        several tasks or units, or a cell that is no motif of the space.
    """
    born, items = _named(path, space, reader)
    place = {name: i for i, name in enumerate(born.names)}
    budget = max(key.budget for key, _ in items)
    runs: dict[str, dict[int, Evaluation]] = {}
    for key, evaluation in items:
        if key.budget == budget:
            runs.setdefault(key.cell, {})[key.seed] = evaluation
    by_seed = [[own[seed] for seed in sorted(own)] for own in runs.values()]
    seeds = tuple(np.array([_score(evaluation) for evaluation in own]) for own in by_seed)
    for name, own in zip(runs, seeds, strict=True):
        if np.any(np.abs(own) > LARGEST_SCORE):
            raise UserError(
                f"{path} holds a score of {own[0]:.3g} for the cell {name!r}: rescale the scores "
                f"so that they lie within {LARGEST_SCORE:.0e}"
            )
    return TruthTable(
        cells=born.take([place[name] for name in runs]),
        scores=np.array([own.mean() for own in seeds]),
        seeds=seeds,
        curves=tuple(tuple(own[0].curve) for own in by_seed),
        budget=budget,
        unit=items[0][1].unit,
        space=space.name,
        task=items[0][0].task,
        source=pathlib.Path(path),
    )


def shipped(name: str) -> pathlib.Path:
    """Return the path of a table that comes with the package.

    Args:
      name: of the file in `spd_jax/data/tables`, without `.csv`.

    Raises:
      UserError: there is no such table; the sentence lists those there are.
    """
    folder = pathlib.Path(str(resources.files("spd_jax"))) / "data" / "tables"
    tables = {file.stem: file for file in sorted(folder.glob("*.csv"))}
    if name not in tables:
        raise UserError(
            f"no table {name!r} comes with spd_jax: use one of {', '.join(tables) or '(none)'}, "
            "or give the path of a CSV file"
        )
    return tables[name]


@dataclasses.dataclass(frozen=True)
class LookupTask:
    """A `task.BatchTask` that answers from a table instead of training.

    Attributes:
      items: keys, with cells by their canonical names, and evaluations; at least one, all of
        one space, task and unit. `open_task` reads them.
      source: the file that messages name.
      answers_smaller_budgets: whether entry b of a curve is what an evaluation with budget b
        would have scored.
    """

    items: tuple[tuple[EvaluationKey, Evaluation], ...]
    source: pathlib.Path
    answers_smaller_budgets: bool = False

    @functools.cached_property
    def budget(self) -> int:
        """The largest budget in the table."""
        return max(key.budget for key, _ in self.items)

    @property
    def unit(self) -> str:
        """What a score is."""
        return self.items[0][1].unit

    @functools.cached_property
    def cells(self) -> tuple[str, ...]:
        """Names of all cells that it can evaluate in full, in order of first appearance."""
        whole = (key.cell for key, _ in self.items if key.budget == self.budget)
        return tuple(dict.fromkeys(whole))

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that the evaluations decide, wherever the file lies."""
        return hashlib.sha256(repr(self.items).encode()).hexdigest()[:16]

    def evaluate(self, cell: str, seed: int, budget: int) -> Evaluation:
        """Return what the table holds.

        Raises:
          UserError: it does not hold this cell with this seed and budget.
        """
        known = self._by_training.get((cell, seed), {})
        longer = [b for b in known if b > budget] if self.answers_smaller_budgets else []
        found = known.get(budget)
        if found is None and longer:
            key = EvaluationKey("", cell, "", seed, min(longer))
            found = beginning(Purchase(key, known[min(longer)], ""), budget)
        if found is not None:
            return dataclasses.replace(found, unit=self.unit)
        raise UserError(
            f"{self.source} has no evaluation of the cell {cell!r} with seed {seed} and budget "
            f"{budget}: ask for what the table holds"
        )

    def evaluate_many(
        self,
        cells: Sequence[str],
        seeds: Sequence[int],
        budget: int,
        on_progress: Progress = no_progress,
    ) -> Iterator[tuple[int, Evaluation]]:
        """Yield place and evaluation of every pair of `cells[i]` and `seeds[i]`.

        Raises:
          UserError: the table does not hold one of them; the ones before it were yielded.
        """
        del on_progress  # a look-up takes no time
        for place, (cell, seed) in enumerate(zip(cells, seeds, strict=True)):
            yield place, self.evaluate(cell, seed, budget)

    @functools.cached_property
    def _by_training(self) -> dict[tuple[str, int], dict[int, Evaluation]]:
        """Evaluations by budget, of every cell and seed."""
        found: dict[tuple[str, int], dict[int, Evaluation]] = {}
        for key, evaluation in self.items:
            found.setdefault((key.cell, key.seed), {})[key.budget] = evaluation
        return found


def open_task(
    path: files.Path,
    space: SearchSpace,
    *,
    reader: Reader = table.read,
    answers_smaller_budgets: bool = False,
    average_seeds: bool = False,
) -> LookupTask:
    """Return a task that answers from a table; errors as `read`.

    Args:
      path: as `read`.
      space: as `read`.
      reader: as `read`.
      answers_smaller_budgets: see `LookupTask`.
      average_seeds: answer with the mean over the seeds of a cell, as seed 0; see `averaged`.
    """
    _, items = _named(path, space, reader)
    items = averaged(items) if average_seeds else items
    return LookupTask(tuple(items), pathlib.Path(path), answers_smaller_budgets)


def averaged(items: Items) -> Items:
    """Return evaluations with those that differ in the seed alone put together, as seed 0.

    `score` and `test_score` become means; the mean over a failed one is failed. `info` holds
    "seeds", how many there were, and curves are left out.
    """
    groups: dict[EvaluationKey, list[Evaluation]] = {}
    for key, evaluation in items:
        groups.setdefault(key._replace(seed=0), []).append(evaluation)
    return [(key, _mean_of(own)) for key, own in groups.items()]


def _mean_of(runs: list[Evaluation]) -> Evaluation:
    failed = next((own for own in runs if own.status == "failed"), None)
    if failed is not None:
        return failed
    return Evaluation(
        "ok",
        float(np.mean([own.score for own in runs])),
        float(np.mean([own.test_score for own in runs])),
        seconds=float(np.mean([own.seconds for own in runs])),
        unit=runs[0].unit,
        info={"seeds": len(runs)},
    )


@dataclasses.dataclass(frozen=True)
class TabulatedSpace(PartOfSpace):
    """A search space cut to the cells of a table: a `SearchSpace` that is `motif.Restricted`.

    Attributes:
      space: the whole space.
      cells: those that may be proposed, at least one.
    """

    cells: Cells

    def allows(self, name: str) -> bool:
        """Return whether the table has the cell."""
        return name in self._names

    def sample(self, key: Key, count: int) -> Archs:
        """Draw `count` cells of the whole space that the table has; consumes `key`.

        Where 20 rounds bring too few, because the table has but a small share of the space, the
        rest are cells of the table, all equally likely.
        """
        last_key, key = jax.random.split(key)
        found = None
        for turn in range(ROUNDS):
            drawn = Cells.of(self.space, self.space.sample(jax.random.fold_in(key, turn), count))
            drawn = drawn.take(np.array([self.allows(name) for name in drawn.names], bool))
            found = drawn if found is None else found.joined(drawn)
            if len(found) >= count:
                return batches.take(found.archs, slice(count))
        places = np.asarray(jax.random.randint(last_key, (count,), 0, len(self.cells)))
        others = self.cells.take(places)
        joined = others if found is None else found.joined(others)
        return batches.take(joined.archs, slice(count))

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.cells.names)


def space_of(task: Task, space: SearchSpace) -> SearchSpace:
    """Return the cells of a space that a task can evaluate: all, unless it is a `ClosedTask`."""
    if isinstance(task, ClosedTask):
        return TabulatedSpace(space, Cells.read(space, list(task.cells)))
    return space


def _named(path: files.Path, space: SearchSpace, reader: Reader) -> tuple[Cells, Items]:
    """Return the motifs of a table, and its evaluations under their names; errors as `read`."""
    items = reader(path)
    if not items:
        raise UserError(f"{path} has no rows: give at least one evaluation")
    spaces = {key.space for key, _ in items} - {"", space.name}
    if spaces:
        raise UserError(
            f"{path} holds motifs of the space {min(spaces)!r}: give a table of {space.name!r}"
        )
    kinds = {(key.task, evaluation.unit) for key, evaluation in items}
    if len(kinds) != 1:
        raise UserError(
            f"{path} holds evaluations of {len(kinds)} tasks: give a table of one task, with "
            "scores in one unit"
        )
    texts = list(dict.fromkeys(key.cell for key, _ in items))
    try:
        born = Cells.read(space, texts)
    except UserError as error:
        raise UserError(f"{path} holds something else than motifs: {error}") from error
    names = dict(zip(texts, born.names, strict=True))
    found: dict[EvaluationKey, Evaluation] = {}
    for key, evaluation in items:
        key = key._replace(space=space.name, cell=names[key.cell])
        if key in found or key.parent:
            what = "inherited its weights" if key.parent else "is there twice"
            raise UserError(
                f"{path}: the cell {key.cell!r} with seed {key.seed} and budget {key.budget} "
                f"{what}: give one training from scratch"
            )
        found[key] = evaluation
    return born, list(found.items())


def _score(evaluation: Evaluation) -> float:
    return evaluation.score if evaluation.status == "ok" else math.nan
