"""Run folders as one HTML page that needs nothing else: no network, no file beside it.

Whatever stands in a run folder is text from somewhere: it is escaped, and the page forbids every
script but its own.
"""

import base64
import datetime
import hashlib
import importlib.resources
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from spd_jax import files
from spd_jax.errors import UserError
from spd_jax.report import page_curves, page_tables, page_words
from spd_jax.report.page_curves import Curves
from spd_jax.report.page_tables import Cell, Content, Table

PNG = b"\x89PNG\r\n\x1a\n"  # how every picture begins
MOST_ROWS = 50  # of a CSV file
LARGEST_CSV = 20_000_000  # bytes
MOST_COMPARED = 60  # figures of several runs side by side


class Picture(NamedTuple):
    """A picture with its caption; `data` is a data URL."""

    name: str
    caption: str
    data: str


class Run(NamedTuple):
    """What a page says of one run folder.

    Attributes:
      name: of the folder.
      folder: as it was given.
      study: words about the study.
      finished: when the summary was written, UTC; empty where there is none.
      content: tables and figures of the summary.
      pictures: of the folder.
      curves: of its ground truths.
      csvs: beginnings of its CSV files.
      settings: of config.json, by name.
      versions: packages, devices and commit, by name.
      command: that was run; empty where it was not recorded.
      next: commands that lead on, with what they are for.
      faults: what could not be read, one sentence each.
    """

    name: str
    folder: str
    study: page_words.Study
    finished: str
    content: Content
    pictures: list[Picture]
    curves: list[Curves]
    csvs: list[Table]
    settings: dict[str, Cell]
    versions: dict[str, Cell]
    command: str
    next: list[tuple[str, str]]
    faults: list[str]


def write(folders: Sequence[files.Path], output: files.Path | None = None) -> pathlib.Path:
    """Write the page of one or several run folders, side by side.

    Args:
      folders: of runs, finished or not.
      output: the file; None: report.html in the run folder, or in this one where there are
        several.

    Returns:
      The file.

    Raises:
      UserError: a folder is none of a run, jinja2 is missing, or the file cannot be written.
    """
    runs = [read(folder) for folder in folders]
    if output is None:
        output = pathlib.Path(folders[0] if len(runs) == 1 else ".") / "report.html"
    files.write_text(output, render(runs))
    return pathlib.Path(output)


def read(folder: files.Path) -> Run:
    """Read what a page says of a run folder; what is damaged there is said on the page.

    Raises:
      UserError: there is neither config.json nor summary.json.
    """
    path, faults = pathlib.Path(folder), list[str]()
    if not any((path / name).is_file() for name in ("config.json", "summary.json")):
        raise UserError(
            f"{folder} has no config.json and no summary.json: give the folder of a run"
        )
    config, summary, versions = (
        _json(path / f"{name}.json", faults) for name in ("config", "summary", "versions")
    )
    command = str(versions.pop("command", ""))
    summary.pop("versions", None)  # the benchmark's own copy
    study = page_words.study(config.pop("study", summary.get("study")))
    config.pop("layout", None)
    return Run(
        path.resolve().name,
        str(folder),
        study,
        _finished(path / "summary.json"),
        page_tables.content(summary, config),
        _pictures(path),
        _curves(path, faults),
        _csvs(path, faults),
        page_tables.flat(config),
        page_tables.flat(versions),
        command,
        _next(path, study, summary),
        faults,
    )


def render(runs: Sequence[Run]) -> str:
    """Return the page; raises UserError where jinja2 is missing."""
    try:
        import jinja2
    except ImportError as error:
        raise UserError("a page needs jinja2: pip install 'spd_jax[report]'") from error
    parts = importlib.resources.files("spd_jax.report")
    template, style, script = (
        (parts / f"page.{end}").read_text(encoding="utf-8") for end in ("html", "css", "js")
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template).render(
        runs=runs,
        title=runs[0].study.title if len(runs) == 1 else f"{len(runs)} runs side by side",
        differing=differing([run.settings for run in runs], [run.name for run in runs]),
        figures=_side_by_side(runs),
        style=style,
        script=script,
        hashes={"style": _hash(style), "script": _hash(script)},
        width=page_curves.WIDTH,
        height=page_curves.HEIGHT,
    )


def differing(settings: Sequence[Mapping[str, Cell]], names: Sequence[str]) -> Table:
    """Return the settings that are not the same in all runs: a row for each, a column a run."""
    missing = Cell(page_tables.NOTHING)
    every = dict.fromkeys(name for own in settings for name in own)
    rows = [(Cell(name), *(own.get(name, missing) for own in settings)) for name in every]
    kept = tuple(row for row in rows if len(set(row[1:])) > 1)
    return Table("Settings that differ", 1, ("setting", *names), kept)


def _side_by_side(runs: Sequence[Run]) -> Table:
    """Return the figures that two runs or more have: those alone, and those of main tables."""
    found = [_named(run.content) for run in runs]
    every = dict.fromkeys(name for own in found for name in own)
    shared = [name for name in every if sum(name in own for own in found) > 1]
    rows = tuple(
        (Cell(name), *(own.get(name, Cell(page_tables.NOTHING)) for own in found))
        for name in shared[:MOST_COMPARED]
    )
    return Table("Figures", 1, ("figure", *(run.name for run in runs)), rows)


def _named(content: Content) -> dict[str, Cell]:
    """Return the figures of a main table by row and column, and then those that stand alone."""
    named: dict[str, Cell] = {}
    for table in content.tables[:1]:
        for row in table.rows:
            keys = " ".join(own.text for own in row[: table.keys])
            for name, own in zip(table.columns[table.keys :], row[table.keys :], strict=True):
                if own.order is not None:
                    named[f"{keys}: {name}"] = own
    return named | content.figures


def _json(path: pathlib.Path, faults: list[str]) -> dict[str, Any]:
    """Return what a JSON file holds; {} where there is none, or where it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no mapping")
        return found
    except FileNotFoundError:
        faults.append(
            f"There is no {path.name}" + (" yet." if path.name == "summary.json" else ".")
        )
    except (OSError, ValueError, RecursionError) as error:
        faults.append(f"{path.name} cannot be read ({error}).")
    return {}


def _finished(summary: pathlib.Path) -> str:
    if not summary.is_file():
        return ""
    written = datetime.datetime.fromtimestamp(summary.stat().st_mtime, datetime.UTC)
    return written.strftime("%Y-%m-%d %H:%M UTC")


def _pictures(folder: pathlib.Path) -> list[Picture]:
    """Return the PNG files of a folder."""
    found = []
    for path in sorted(folder.glob("*.png")):
        content = path.read_bytes() if path.is_file() and not path.name.startswith(".") else b""
        if content.startswith(PNG):
            data = "data:image/png;base64," + base64.b64encode(content).decode()
            found.append(Picture(path.name, page_words.caption(path.stem), data))
    return found


def _curves(folder: pathlib.Path, faults: list[str]) -> list[Curves]:
    try:
        return page_curves.of_folder(folder)
    except UserError as error:
        faults.append(f"{error}.")
        return []


def _csvs(folder: pathlib.Path, faults: list[str]) -> list[Table]:
    """Return the first rows of every CSV file of a folder; the title says how many there are."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        if path.stat().st_size > LARGEST_CSV:
            faults.append(f"{path.name} is too large for this page.")
            continue
        try:
            _, rows = files.read_csv(path)
        except UserError as error:
            faults.append(f"{error}.")
            continue
        if rows:
            texts = [list(row.values()) for _, row in rows[:MOST_ROWS]]
            count = f"{len(rows)} rows" + (f", first {MOST_ROWS}" * (len(rows) > MOST_ROWS))
            found.append(page_tables.of_texts(list(rows[0][1]), texts, f"{path.name} ({count})"))
    return found


def _next(
    folder: pathlib.Path, study: page_words.Study, summary: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Return commands that lead on from a run; none that needs a file which is not there."""
    ledger = folder / "ledger.sqlite"
    commands = [
        (command.format(folder=folder), why)
        for command, why in study.next
        if "ledger.sqlite" not in command or ledger.is_file()
    ]
    if summary.get("failed") and ledger.is_file():
        retry = f"python -m spd_jax.ledger retry {ledger}"
        commands.insert(0, (retry, "forgets what failed, so that the same command evaluates it"))
    other = os.path.join(os.path.dirname(folder) or ".", "OTHER")
    return [*commands, (f"python -m spd_jax.report {folder} {other}", "two runs side by side")]


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
