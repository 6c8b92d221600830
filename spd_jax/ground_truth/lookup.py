"""Ground truth that was computed before: a CSV of slopes and accuracies."""

import csv
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources

import numpy as np

from spd_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Table:
    """The accuracies of M distinct slopes, in order of slope.

    Attributes:
      slopes: `[M]` float64, unitless, strictly increasing.
      accuracy: `[M]` float64, mean over seeds, higher is better; commonly a share
        in [0, 1], but any score will do.
      standard_error: `[M]` float64, of that mean (sample standard deviation over
        sqrt(seeds)); NaN with one seed, which tells nothing about the spread.
      seeds_per_slope: `[M]` int.
      values: M arrays, each the accuracies of one slope in order of seed.
      source: the file.
    """

    slopes: np.ndarray
    accuracy: np.ndarray
    standard_error: np.ndarray
    seeds_per_slope: np.ndarray
    values: tuple[np.ndarray, ...]
    source: pathlib.Path


def read(path: str | os.PathLike[str]) -> Table:
    """Read a ground-truth table.

    The file is CSV in UTF-8: a header that names the columns `slope` and
    `accuracy`, optionally `seed` (whole numbers), and any others; then one row
    per slope and seed. Lines that start with `#` and empty lines are skipped.

    Args:
      path: the file.

    Returns:
      The table, averaged over seeds.

    Raises:
      UserError: the file is missing or not such a table; the sentence names the
        line and what to do about it.
    """
    path = pathlib.Path(path)
    accuracies: dict[float, dict[int, float]] = {}
    for line, slope, seed, accuracy in _entries(path):
        runs = accuracies.setdefault(slope, {})
        if seed in runs:
            raise UserError(
                f"{path}, line {line}: slope {slope:g} with seed {seed} is there twice: "
                "delete one row, or tell runs apart in a column named 'seed'"
            )
        runs[seed] = accuracy
    if not accuracies:
        raise UserError(f"{path} has no rows below its header: give one row per slope")
    slopes = sorted(accuracies)
    values = tuple(
        np.array([accuracy for _, accuracy in sorted(accuracies[slope].items())])
        for slope in slopes
    )
    return Table(
        slopes=np.array(slopes),
        accuracy=np.array([np.mean(runs) for runs in values]),
        standard_error=np.array([_standard_error(runs) for runs in values]),
        seeds_per_slope=np.array([len(runs) for runs in values]),
        values=values,
        source=path,
    )


def shipped(name: str = "mnist_sigmoid_slope") -> pathlib.Path:
    """Return the path of a table that comes with the package.

    Args:
      name: of the file in `spd_jax/tables`, without `.csv`.

    Raises:
      UserError: there is no such table; the sentence lists those there are.
    """
    folder = pathlib.Path(str(resources.files("spd_jax"))) / "data" / "tables"
    tables = {table.stem: table for table in sorted(folder.glob("*.csv"))}
    if name not in tables:
        raise UserError(
            f"no table {name!r} comes with spd_jax: use one of {', '.join(tables) or '(none)'}, "
            "or give the path of a CSV file"
        )
    return tables[name]


def _entries(path: pathlib.Path) -> Iterator[tuple[int, float, int, float]]:
    """Yield line number, slope, seed (0 without that column) and accuracy of each row."""
    rows = _rows(path)
    try:
        _, names = next(rows)
    except StopIteration:
        raise UserError(
            f"{path} is empty: give a header line with the columns slope and accuracy"
        ) from None
    for column in ("slope", "accuracy", "seed"):
        if names.count(column) != 1 and (column != "seed" or column in names):
            raise UserError(
                f"{path} needs one column named {column!r}, but its header is "
                f"{','.join(names)!r}: name the columns slope, accuracy and, if you like, seed"
            )
    for line, fields in rows:
        if len(fields) != len(names):
            raise UserError(
                f"{path}, line {line}: {len(fields)} values for {len(names)} columns: "
                "give one value per column, separated by commas"
            )
        row = dict(zip(names, fields, strict=True))
        where = f"{path}, line {line}"
        yield (
            line,
            _number(row["slope"], f"{where}: slope"),
            _whole_number(row.get("seed", "0"), f"{where}: seed"),
            _number(row["accuracy"], f"{where}: accuracy"),
        )


def _rows(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and stripped fields of each row that is neither comment nor empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: give the path of a CSV file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a CSV file in UTF-8") from error
    # A comment becomes an empty line, so that the reader's line numbers stay those of the file.
    reader = csv.reader(_blank_comments(lines))
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            if any(fields):
                yield reader.line_num, fields
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: {error}: give plain comma-separated values"
        ) from error


def _blank_comments(lines: Iterable[str]) -> Iterator[str]:
    return ("" if line.lstrip().startswith("#") else line for line in lines)


def _number(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise UserError(f"{what} is {text!r}: give a number") from None
    if not math.isfinite(number):
        raise UserError(
            f"{what} is {text!r}: give a finite number, or delete the row of a failed run"
        )
    return number


def _whole_number(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{what} is {text!r}: give a whole number") from None


def _standard_error(values: Sequence[float] | np.ndarray) -> float:
    if len(values) == 1:
        return float("nan")
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))
