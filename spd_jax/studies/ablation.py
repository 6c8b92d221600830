"""An ablation: rows that differ from a base in one thing each, with several seeds.

Here is what every ablation shares: which rows and seeds a run folder holds already, and how
their figures become a table. What a row is, the studies of particular dishes say.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spd_jax import files, metrics
from spd_jax.errors import UserError
from spd_jax.studies import events, machine
from spd_jax.studies.run_folder import RunFolder

Row = Mapping[str, Any]
# Name of the row, seed, and whom to tell which share of the work is done; returns plain data
# with all columns of the layout.
RunRow = Callable[[str, int, Callable[[float], None]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which figures an ablation has.

    Attributes:
      figures: columns that have a mean and a spread over seeds; "seconds" is one besides.
      counts: columns that all seeds of a row share.
      shown: columns of the table for people: header -> figure.
      pairs: pictures: title -> figures before and after learning.
    """

    figures: tuple[str, ...]
    counts: tuple[str, ...]
    shown: Mapping[str, str]
    pairs: Mapping[str, tuple[str, str]]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of ablation.csv."""
        return ("variant", "seed", *self.figures, *self.counts, "seconds")


@dataclasses.dataclass(frozen=True)
class Ablation:
    """A finished ablation.

    Attributes:
      rows: one mapping for each row and seed, with the layout's columns; of some, "curves".
      summary: what summary.json holds.
      layout: of the rows.
      path: the run folder, with ablation.csv and summary.json.
    """

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    layout: Layout
    path: pathlib.Path


def chosen(asked: Sequence[str], known: Sequence[str], field: str) -> None:
    """Refuse rows that there are not.

    Args:
      asked: names of rows.
      known: names of all rows.
      field: of the settings that asks for them.

    Raises:
      UserError: a name that is none of `known`.
    """
    if not set(asked) <= set(known):
        raise UserError(f"{field}={','.join(asked)}: give some of {','.join(known)}")


def play(
    folder: RunFolder,
    names: Sequence[str],
    seeds: Sequence[int],
    layout: Layout,
    run_row: RunRow,
    listen: events.Listener,
) -> list[dict[str, Any]]:
    """Run every row and seed that the folder does not hold yet; return the results of all.

    Args:
      folder: keeps each result, as soon as it is known, as `rows/<name>-seed<seed>.json`.
      names: of the rows.
      seeds: of every row.
      layout: of their results; `tau_after` is told.
      run_row: runs one.
      listen: told what happens.
    """

    def parse(content: Any) -> dict[str, Any]:
        kept = {name: content[name] for name in layout.columns}
        return kept | ({"curves": content["curves"]} if "curves" in content else {})

    # Seed by seed: a run that is stopped early has compared all rows on the first ones.
    places = {(name, seed): f"rows/{name}-seed{seed}.json" for seed in seeds for name in names}
    results = {entry: folder.read_json(place, parse) for entry, place in places.items()}
    already = done = sum(result is not None for result in results.values())
    listen(events.Stage("ablation", len(results), already, "" if already else "compiling"))
    for (name, seed), place in places.items():
        if results[name, seed] is not None:
            continue

        def advanced(share: float, name: str = name, seed: int = seed, done: int = done) -> None:
            listen(events.Advanced(round(done + share, 1), f"{name}, seed {seed}"))

        row = {"variant": name, "seed": seed} | run_row(name, seed, advanced)
        folder.keep_json(place, row)
        results[name, seed] = parse(row)
        done += 1
        tau = row["tau_after"]
        shown = "-" if tau is None else f"{tau:.2f}"
        listen(events.Advanced(done, f"{name}, seed {seed}: held-out tau {shown}"))
    return [result for result in results.values() if result is not None]


def finish(
    folder: RunFolder,
    rows: list[dict[str, Any]],
    layout: Layout,
    words: Mapping[str, str],
    about: Mapping[str, Any],
) -> Ablation:
    """Write ablation.csv, curves.csv where rows have curves, and summary.json.

    Args:
      folder: of the run.
      rows: of `play`.
      layout: of the rows.
      words: what each row differs in, for people.
      about: what else summary.json says; `words` in it becomes a picture's title.
    """
    comments = {"commit": machine.commit(), "about": dict(about)}
    table = [[row[column] for column in layout.columns] for row in rows]
    files.write_csv(folder.path / "ablation.csv", comments, layout.columns, table)
    lines = [
        [row["variant"], row["seed"], when, *point]
        for row in rows
        for when, own in row.get("curves", {}).items()
        for point in zip(own["step"], own["train_loss"], own["valid_loss"], strict=True)
    ]
    if lines:
        header = ("variant", "seed", "when", "inner_step", "train_loss", "valid_loss")
        files.write_csv(folder.path / "curves.csv", comments, header, lines)
    summary = {**about, "rows": summarise(rows, layout, words)}
    folder.write_json("summary.json", summary)
    return Ablation(rows, summary, layout, folder.path)


def summarise(
    rows: Sequence[Row], layout: Layout, words: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return, by row, its words, counts, and every figure with mean and spread over seeds."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        values = {
            figure: [np.nan if row[figure] is None else row[figure] for row in own]
            for figure in (*layout.figures, "seconds")
        }
        found[name] = {
            "words": words[name],
            **{count: own[0][count] for count in layout.counts},
            **{figure: metrics.spread_with_mean(of_all) for figure, of_all in values.items()},
        }
    return found
