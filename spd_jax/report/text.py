"""Tables, durations and long lines for a terminal of 80 columns."""

import textwrap
from collections.abc import Sequence

WIDTH = 80


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned lines: the first column to the left, the others to the right.

    Columns stand two spaces apart; where that is wider than `WIDTH`, one.

    >>> print(table("sizes", ["name", "MiB"], [["small", "1.5"], ["large", "20"]]), end="")
    sizes
      name   MiB
      small  1.5
      large   20
    """
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    gap = "  " if 2 + sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return "  " + gap.join(padded).rstrip()

    return "\n".join([title, line(headers), *map(line, rows)]) + "\n"


def wrapped(line: str, indent: str = "") -> str:
    """Return a line, broken between words where it is wider than `WIDTH`.

    >>> print(wrapped("seeds: 1/5, " + "seed 0: " * 10))
    seeds: 1/5, seed 0: seed 0: seed 0: seed 0: seed 0: seed 0: seed 0: seed 0: seed
        0: seed 0:
    """
    style = {"break_long_words": False, "break_on_hyphens": False}
    indents = {"initial_indent": indent, "subsequent_indent": indent + "    "}
    return textwrap.fill(line, WIDTH, **style, **indents)  # type: ignore[arg-type]


def duration(seconds: float | None, digits: int = 3) -> str:
    """Return seconds with so many digits, and the unit that suits them.

    >>> duration(0.01234), duration(75.04), duration(1234.5), duration(None)
    ('12.3 ms', '75 s', '1230 s', '-')
    """
    if seconds is None:
        return "-"
    value, unit = (seconds * 1e3, "ms") if seconds < 1 else (seconds, "s")
    return f"{float(f'{value:.{digits}g}'):.15g} {unit}"


def clock_face(seconds: float) -> str:
    """Return minutes and seconds, and hours where there are any.

    >>> clock_face(65), clock_face(3725)
    ('1:05', '1:02:05')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
