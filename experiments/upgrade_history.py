"""Rewrite a history of searches of spd_jax 0.2 in the present format, equal to the bit.

The old columns held losses, the new ones hold scores; the old settings were a text, the new
ones are JSON. `python -m spd_jax.ledger upgrade` does the same for tables of evaluations.
"""

import ast
import itertools
import math
import pathlib
import re
import typing
from typing import Any

import numpy as np
from absl import flags

from experiments import launch
from experiments.rnn_cell_search import RnnCellSearch
from spd_jax import files
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.search.record import Iteration, Records, read_history, write_history
from spd_jax.studies import search_comparison

_OLD = flags.DEFINE_string("old", None, "history.csv of spd_jax 0.2", required=True)
_NEW = flags.DEFINE_string("new", None, "the file to write", required=True)
COLUMNS = (
    "method", "run", "iteration", "cell", "predicted", "valid_nll", "test_nll", "tau", "cost",
    "seconds", "nao_pairwise_accuracy",
)  # fmt: skip


def settings_of(text: str) -> RnnCellSearch:
    """Return the settings that an old history's comment holds: `name=value ... dish={...}`."""
    plain, _, dish = text.partition("dish=")
    kinds = typing.get_type_hints(RnnCellSearch)
    values = {name: kinds[name](value) for name, value in re.findall(r"(\w+)=(\S+)", plain)}
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in ast.literal_eval(dish).items()
    }
    return RnnCellSearch(dish=DishConfig(**fields), **values)


def upgrade(old: pathlib.Path, new: pathlib.Path) -> int:
    """Rewrite a history; what was written is compared before it is kept.

    Returns:
      How many cells it holds.

    Raises:
      UserError: the file is no such history, or would not come back to the bit.
    """
    comments, lines = files.read_csv(old, COLUMNS)
    rows = [row for _, row in lines]
    records: Records = {}
    try:
        for (method, run, _), own in itertools.groupby(rows, _place):
            records.setdefault((method, int(run)), []).append(_iteration(list(own)))
        settings = settings_of(comments["settings"])
    except (LookupError, TypeError, ValueError, SyntaxError) as error:
        raise UserError(
            f"{old} is no history of spd_jax 0.2 ({error!r}): give one as it was written"
        ) from error
    described: dict[str, object] = {
        **comments,
        "settings": search_comparison.identity(settings),
    }
    with files.atomic_path(new) as temporary:
        write_history(temporary, records, described)
        back, _ = read_history(temporary)
        kept = [(own.cells, _bits(own)) for record in back.values() for own in record]
        if kept != [(own.cells, _bits(own)) for record in records.values() for own in record]:
            raise UserError(f"{new} would not equal {old}, and is not written")
    return len(rows)


def _place(row: dict[str, str]) -> tuple[str, str, str]:
    return row["method"], row["run"], row["iteration"]


def _iteration(rows: list[dict[str, str]]) -> Iteration:
    """Return the iteration of an old history's rows: scores are minus the losses."""

    def column(name: str, sign: float = 1.0) -> np.ndarray:
        return np.array([sign * float(row[name]) if row[name] else math.nan for row in rows])

    first, accuracy = rows[0], column("nao_pairwise_accuracy")[0]
    tau, cost, seconds = (column(name)[0] for name in ("tau", "cost", "seconds"))
    notes = {} if math.isnan(accuracy) else {"nao_pairwise_accuracy": float(accuracy)}
    return Iteration(
        int(first["iteration"]),
        tuple(row["cell"] for row in rows),
        column("predicted"),
        column("valid_nll", -1),
        column("test_nll", -1),
        float(tau),
        float(cost),
        float(seconds),
        notes,
    )


def _bits(own: Iteration) -> bytes:
    numbers = [*own.predicted, *own.scores, *own.test_scores, own.tau, own.cost, own.seconds]
    return np.array([*numbers, *own.notes.values()]).tobytes()


def main() -> None:
    """Rewrite a history."""
    count = upgrade(pathlib.Path(_OLD.value), pathlib.Path(_NEW.value))
    print(f"{count} cells written to {_NEW.value}")


if __name__ == "__main__":
    launch.run_main(main)
