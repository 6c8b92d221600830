"""Any summary.json as tables: which of its mappings are rows, which are spreads, which figures.

Nothing here knows an experiment: a mapping whose values are mappings with names in common is a
table, whatever it is of.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

NOTHING = "-"  # what stands for a value that is not there
MOST_NAMES = 40  # columns that a table shows


class Cell(NamedTuple):
    """One figure of a table.

    Attributes:
      text: as it is shown.
      spread: of how much it varies; empty where it does not.
      order: what a table is sorted by; None for a text.
    """

    text: str
    spread: str = ""
    order: float | None = None


class Table(NamedTuple):
    """Rows of cells under names of columns.

    Attributes:
      title: where in the summary it stands.
      keys: K, how many of the first columns name a row.
      columns: C names.
      rows: C cells in each.
    """

    title: str
    keys: int
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Content(NamedTuple):
    """What a summary says.

    Attributes:
      tables: the first is the main one: those with numbers come first, in the file's order.
      figures: what stands alone, by name.
    """

    tables: list[Table]
    figures: dict[str, Cell]


def content(summary: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Content:
    """Return the tables of a summary, and the figures that belong to none of them.

    Args:
      summary: plain data.
      settings: what is not repeated where a figure has the same name and value.

    >>> found = content({"tau": 0.5, "methods": {"a": {"tau": 1.0}, "b": {"tau": 2.0}}})
    >>> [(own.title, own.columns, len(own.rows)) for own in found.tables], list(found.figures)
    ([('methods', ('methods', 'tau'), 2)], ['tau'])
    """
    settings = settings or {}
    new = {
        name: value
        for name, value in summary.items()
        if not (name in settings and settings[name] == value)
    }
    found = Content([], {})
    _collect("", new, found)
    found.tables.sort(key=lambda own: not _has_numbers(own))
    return found


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Cell]:
    """Return the figures of a mapping by name; names of mappings inside are put in front.

    >>> flat({"test": {"score": 0.5}, "runs": 3})["test score"].text
    '0.5'
    """
    found: dict[str, Cell] = {}
    for name, value in row.items():
        words = f"{prefix} {plain(name)}".strip()
        if _is_plain(value):
            found |= flat(value, words)
        elif value != {}:
            found[words] = cell(value)
    return found


def cell(value: Any) -> Cell:
    """Return a value of a summary as it is shown.

    >>> cell({"median": 0.8779, "q25": 0.8757, "q75": 0.887, "values": [0.1]})
    Cell(text='0.8779', spread='0.8757 to 0.887', order=0.8779)
    >>> cell(True).text, cell(None).text, cell(1234567).text, cell([1, 2]).text
    ('yes', '-', '1234567', '1, 2')
    """
    if isinstance(value, Mapping) and "median" in value:
        middle, low, high = (cell(value.get(name)) for name in ("median", "q25", "q75"))
        spread = "" if low.text == high.text else f"{low.text} to {high.text}"
        return Cell(middle.text, spread, middle.order)
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if value is None:
        return Cell(NOTHING)
    if isinstance(value, int):
        return Cell(str(value), order=_order(value))
    if isinstance(value, float):
        return Cell(f"{value:.4g}", order=_order(value))
    if isinstance(value, list | tuple):
        return Cell(", ".join(cell(item).text for item in value) or NOTHING)
    if isinstance(value, Mapping):
        inside = flat(value)
        return Cell("; ".join(f"{name}: {own.text}" for name, own in inside.items()) or NOTHING)
    return Cell(str(value))


def of_texts(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """Return a table of texts, such as a CSV file has; numbers among them are rounded."""
    return Table(title, 1, tuple(columns), tuple(tuple(map(_of_text, row)) for row in rows))


def plain(name: str) -> str:
    """Return a name of a program as words."""
    return str(name).replace("_", " ")


def _of_text(text: str) -> Cell:
    try:
        number = float(text)
    except ValueError:
        return Cell(text)
    whole = text.strip().lstrip("-").isdigit()
    return Cell(text if whole else f"{number:.4g}", order=_order(number))


def _order(number: float) -> float | None:
    """Return a number that JSON and HTML know, or None."""
    try:
        number = float(number)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _is_plain(value: Any) -> bool:
    """Return whether a value is a mapping that is no spread."""
    return isinstance(value, Mapping) and bool(value) and "median" not in value


def _is_group(value: Any) -> bool:
    """Return whether a value is a mapping of mappings: rows, or groups of rows."""
    return _is_plain(value) and all(map(_is_plain, value.values()))


def _row_groups(node: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the mappings in a node that are rows of one table: they have a figure in common."""
    children = [(str(k), v) for k, v in node.items() if _is_plain(v) and not _is_group(v)]
    shared = [(k, v, set(flat(v))) for k, v in children]
    return [
        (name, row)
        for name, row, names in shared
        if any(len(names & other) * 2 > len(names | other) for k, _, other in shared if k != name)
    ]


def _collect(title: str, node: Mapping[str, Any], found: Content) -> None:
    """Put the tables in a node of a summary, and its figures, where they belong."""
    together = _row_groups(node)
    if together:
        rows = [((name,), row) for name, row in together]
        found.tables.append(_table(title or "results", rows))
    for name, value in node.items():
        where = f"{title} {plain(name)}".strip()
        if str(name) in dict(together):
            continue
        if _is_group(value):
            found.tables.append(_table(where, list(_rows(value))))
        elif isinstance(value, list) and value and all(map(_is_plain, value)):
            found.tables.append(_table(where, [((), row) for row in value]))
        elif _is_plain(value):
            _collect(where, value, found)
        elif value != {}:
            found.figures[where] = cell(value)


def _has_numbers(table: Table) -> bool:
    return any(own.order is not None for row in table.rows for own in row[table.keys :])


def _rows(
    node: Mapping[str, Any], keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield the rows below a group, each with the names that lead to it."""
    for name, value in node.items():
        if _is_group(value):
            yield from _rows(value, (*keys, str(name)))
        else:
            yield (*keys, str(name)), value


def _table(title: str, rows: Sequence[tuple[tuple[str, ...], Mapping[str, Any]]]) -> Table:
    """Return rows as a table; what only a mapping of mappings inside a row says is left out."""
    depth = max(len(keys) for keys, _ in rows)
    flattened = [
        (keys, flat({k: v for k, v in row.items() if not _is_group(v)})) for keys, row in rows
    ]
    names = list(dict.fromkeys(name for _, row in flattened for name in row))[:MOST_NAMES]
    heads = (title, *[""] * (depth - 1))[:depth]
    body = tuple(
        (
            *(_of_text(key) for key in (*keys, *[""] * (depth - len(keys)))),
            *(row.get(name, Cell(NOTHING)) for name in names),
        )
        for keys, row in flattened
    )
    return Table(title, depth, (*heads, *names), body)
