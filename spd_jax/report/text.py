"""Tables and durations for a terminal."""

from collections.abc import Sequence


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned lines: the first column to the left, the others to the right.

    >>> print(table("sizes", ["name", "MiB"], [["small", "1.5"], ["large", "20"]]), end="")
    sizes
      name   MiB
      small  1.5
      large   20
    """
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return "  " + "  ".join(padded).rstrip()

    return "\n".join([title, line(headers), *map(line, rows)]) + "\n"


def duration(seconds: float | None) -> str:
    """Return seconds with three digits and the unit that suits them.

    >>> duration(0.01234), duration(75.04), duration(None)
    ('12.3 ms', '75 s', '-')
    """
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
