"""What settings are judged by: motifs to learn from, and others to be asked about (appendix A.1).

Either both are parts of one table of motifs that no figure uses, or they come from the tables
beside the one that the settings are for (ours: leave one table out): two whole tables, or two
parts of each.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.problems import Problem

UNSEEN = "unseen"  # a target that is none of the shipped tables


class Exam(NamedTuple):
    """Motifs to learn from, and motifs to predict.

    Attributes:
      name: for people and for file names.
      known: what is learned from.
      asked: what is predicted.
    """

    name: str
    known: TruthTable
    asked: TruthTable

    def described(self) -> dict[str, Any]:
        """Return the tables and motifs that it shows, for JSON."""
        return {
            role: {"table": table.source.stem, "motifs": list(table.cells.names)}
            for role, table in (("learned_from", self.known), ("asked", self.asked))
        }


def of_splits(table: TruthTable, known: int, splits: int) -> list[Exam]:
    """Return exams that learn from `known` motifs of a table and ask about its others.

    Split `s` is the same whatever the number of splits.

    Raises:
      UserError: fewer than two motifs would be left to predict.
    """
    if known > len(table) - 2:
        raise UserError(
            f"known={known} of {len(table)} tuning motifs leaves none to predict: give at most "
            f"{len(table) - 2}"
        )
    found = []
    for split in range(splits):
        order = np.random.default_rng(split).permutation(len(table))
        parts = (np.sort(order[:known]), np.sort(order[known:]))
        found.append(Exam(f"split{split}", *map(table.take, parts)))
    return found


def within(tables: Mapping[str, TruthTable], known: int, splits: int) -> list[Exam]:
    """Return the exams of `of_splits` of every table: none has to agree with another one.

    Raises:
      UserError: see `of_splits`.
    """
    return [
        exam._replace(name=f"{name}-{exam.name}")
        for name, table in tables.items()
        for exam in of_splits(table, known, splits)
    ]


def of_pairs(tables: Mapping[str, TruthTable]) -> list[Exam]:
    """Return an exam for every ordered pair of tables: all of one is known, all of one asked.

    Raises:
      UserError: there is no pair.
    """
    if len(tables) < 2:
        raise UserError(
            f"{' '.join(tables)} is the only table to choose on, but two are needed to learn "
            "from one and ask about the other: use exams=within"
        )
    return [
        Exam(f"{one}-to-{other}", tables[one], tables[other])
        for one, other in itertools.permutations(tables, 2)
    ]


def tables_beside(problem: Problem, target: str, only: Sequence[str] = ()) -> dict[str, TruthTable]:
    """Return the shipped tables of a problem but that of the ground truth `target`, by name.

    Args:
      problem: of the motifs.
      target: a ground truth of the problem; "unseen" leaves out none.
      only: names of the tables to return; empty: all.

    Raises:
      UserError: no such ground truth, no table beside it, or a name in `only` that has none.
    """
    if target != UNSEEN:
        problem.ground_truth(target)
    tables = {
        name: preset.table
        for name, preset in problem.ground_truths.items()
        if preset.table and name != target
    }
    if tables and (not set(only) <= set(tables) or len(set(only)) < len(only)):
        raise UserError(
            f"tables={','.join(only)}: give some of {','.join(tables)}, each once, which are the "
            f"tables beside target={target}"
        )
    found = {
        name: lookup.read(lookup.shipped(table), problem.space)
        for name, table in tables.items()
        if name in (only or tables)
    }
    if not found:
        raise UserError(
            f"{problem.name} has no table beside target={target}: give no target, which uses "
            "tuning motifs"
        )
    return found
