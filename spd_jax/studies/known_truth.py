"""What surrogates are compared on: motifs whose ground truth a table holds, and its splits."""

import csv
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from spd_jax import metrics
from spd_jax.axes import Archs
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup as tabular
from spd_jax.ledger import table as cell_table
from spd_jax.spaces import rnn_cell, sigmoid_slope

CEILING_SEEDS = 3
TOP = 10  # of precision@10: at least so many motifs are held out


@dataclasses.dataclass(frozen=True)
class Problem:
    """Motifs whose ground truth a table holds.

    Attributes:
      space: of the motifs.
      names: of M distinct motifs, canonical.
      archs: the same, axis `[M]` first.
      scores: `[M]` float64, mean over a motif's seeds, higher is better; NaN when one failed.
      curves: M learning curves of each motif's first seed, higher is better; that seed is
        part of the motif's score too, which favours partial training.
      budget: units of a full evaluation; 0 when the table has no curves.
      seeds: M arrays, the scores of each motif in order of seed.
    """

    space: Any
    names: list[str]
    archs: Archs
    scores: np.ndarray
    curves: list[tuple[float, ...]]
    budget: int
    seeds: list[np.ndarray]

    @property
    def identity(self) -> str:
        """A short hash of motifs, scores and curves."""
        text = repr([self.names, self.scores.tolist(), self.curves])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def without(self, excluded: set[str]) -> "Problem":
        """Return the problem without some motifs."""
        kept = np.flatnonzero([name not in excluded for name in self.names])
        return dataclasses.replace(
            self,
            names=[self.names[i] for i in kept],
            archs=self.take(kept),
            scores=self.scores[kept],
            curves=[self.curves[i] for i in kept] if self.curves else [],
            seeds=[self.seeds[i] for i in kept],
        )

    def take(self, chosen: np.ndarray) -> Archs:
        """Return the archs at `chosen` `[K]`."""
        return jax.tree.map(lambda x: np.asarray(x)[chosen], self.archs)

    def noise_ceiling(self) -> dict[str, Any]:
        """Return the mean tau between one seed and the mean of two others, and over how many.

        Over the motifs with three seeds or more, of which the first three are used; None when
        fewer than three motifs have them.
        """
        rows = [seeds[:CEILING_SEEDS] for seeds in self.seeds if len(seeds) >= CEILING_SEEDS]
        ceiling = metrics.noise_ceiling(rows) if len(rows) >= 3 else None
        return {"kendall_tau": ceiling, "motifs": len(rows)}


def read_cells(path: pathlib.Path) -> Problem:
    """Read a table of recurrent cells; of several budgets the largest counts.

    Raises:
      UserError: no such table, cells of several variants or tasks, or a cell that is none.
    """
    rows = cell_table.read(path)
    kinds = sorted({(key.space, key.task) for key, _ in rows})
    if len(kinds) != 1:
        raise UserError(
            f"{path} holds evaluations of {len(kinds)} pairs of space and task: give a table of one"
        )
    variant = kinds[0][0].removeprefix("rnn_cell_")
    space = rnn_cell.RnnCellSpace(variant)
    budget = max(key.budget for key, _ in rows)
    runs: dict[str, dict[int, Any]] = {}
    for key, evaluation in rows:
        if key.budget == budget:
            name = space.canonical_text(space.decode(key.cell))
            runs.setdefault(name, {})[key.seed] = evaluation
    by_seed = [[own[seed] for seed in sorted(own)] for own in runs.values()]
    seeds = [np.array([evaluation.score for evaluation in own]) for own in by_seed]
    return Problem(
        space,
        list(runs),
        rnn_cell.stack([space.decode(name) for name in runs]),
        np.array([own.mean() for own in seeds]),
        [tuple(own[0].curve) for own in by_seed],
        budget,
        seeds,
    )


def read_slopes(path: pathlib.Path) -> Problem:
    """Read a table of sigmoid slopes, which has no learning curves."""
    table, space = tabular.read(path), sigmoid_slope.SigmoidSlopeSpace()
    slopes = table.slopes.astype(np.float32)
    names = [space.encode(slope) for slope in slopes]
    return Problem(space, names, slopes, table.accuracy, [], 0, list(table.values))


READERS: dict[str, Callable[[pathlib.Path], Problem]] = {
    "rnn_cell": read_cells,
    "sigmoid_slope": read_slopes,
}


def read_excluded(path: pathlib.Path, space: Any) -> set[str]:
    """Return the motifs that a tuning log names: a CSV with a column `cell`, or one per line.

    Raises:
      UserError: the file cannot be read, or a line is no motif of the space.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: give a list of cells as --exclude") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and "cell" in lines[0].split(","):
        lines = [str(row["cell"]) for row in csv.DictReader(lines)]
    name = getattr(space, "canonical_text", space.encode)
    try:
        return {name(space.decode(line.strip())) for line in lines}
    except UserError as error:
        raise UserError(f"--exclude={path} lists something else than motifs: {error}") from error


class Split(NamedTuple):
    """Indices of the motifs that a split knows, in order of purchase, and of those held out."""

    known: np.ndarray
    held_out: np.ndarray


def draw_splits(
    problem: Problem, seed: int, splits: int, *, known: Sequence[int], held_out: int
) -> list[Split]:
    """Draw splits: known sets are nested, and no known size sees a held-out motif.

    Raises:
      UserError: too few motifs, or a smallest known set in which nearly all failed.
    """
    most, count = max(known), len(problem.names)
    if count < most + TOP:
        raise UserError(
            f"the table has {count} motifs, but {most} known and at least {TOP} held-out ones are "
            "asked for: lower --known"
        )
    drawn = []
    for split in range(splits):
        order = np.random.default_rng([seed, split]).permutation(count)
        usable = int(np.isfinite(problem.scores[order[: min(known)]]).sum())
        if usable < 3:
            raise UserError(
                f"split {split} knows {usable} motifs that did not fail, of {min(known)}: "
                "raise the smallest of --known"
            )
        drawn.append(Split(order[:most], order[most:][:held_out]))
    return drawn
