"""Tables, durations and long lines for a terminal of 80 columns."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from spd_jax.studies.candidates import Look

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


def table_summary(summary: Mapping[str, Any]) -> str:
    """Return what was bought for a table, as text.

    Args:
      summary: of `studies.table_purchase.run`.
    """
    ceiling, each = summary["noise_ceiling"], duration(summary["seconds"]["median"])
    lines = [
        f"{summary['evaluations']} evaluations, {summary['failed']} failed, {each} each (median)"
    ]
    if ceiling["kendall_tau"] is None:
        lines.append("noise ceiling of tau: not measured, which takes 2 seeds of 3 cells or more")
    else:
        over = f"{ceiling['motifs']} cells, {ceiling['seeds']} seeds"
        lines.append(f"noise ceiling of tau: {ceiling['kendall_tau']:.3f} ({over})")
    if "agreement" in summary:
        own = summary["agreement"]
        lines.append(
            f"against the other table, {own['cells']} cells in both: tau {own['kendall_tau']:.3f}, "
            f"rho {own['spearman']:.3f}, {own['precision_at_10']:.0%} of the best 10"
        )
    return "\n".join(lines)


def candidates_table(looks: Sequence[Look]) -> str:
    """Return held-out loss and tau by candidate and outer step, means over trials, best first."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for look in looks:
        found.setdefault((look.candidate, look.step), []).append((look.loss, look.tau))
    rows = [
        (sum(loss for loss, _ in own) / len(own), sum(tau for _, tau in own) / len(own), place, own)
        for place, own in found.items()
    ]
    return table(
        "held-out figures of every candidate, best first",
        ["candidate", "step", "loss", "tau", "trials"],
        [
            [candidate, str(step), f"{loss:.3f}", f"{tau:.3f}", str(len(own))]
            for loss, tau, (candidate, step), own in sorted(rows, key=lambda row: row[0])
        ],
    )
