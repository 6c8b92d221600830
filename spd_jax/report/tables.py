"""A bought table of ground truths, and a comparison of candidates, as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from spd_jax.report.text import duration, table, wrapped
from spd_jax.studies.candidates import Look, means, short


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
    return "\n".join(map(wrapped, lines))


def candidates_table(looks: Sequence[Look], criterion: str = "loss") -> str:
    """Return held-out loss and tau by candidate and outer step, means over trials: the best 20.

    Args:
      looks: of a comparison.
      criterion: "loss" or "tau", what is best.
    """
    found = means(looks)
    found.sort(key=lambda own: own.loss if criterion == "loss" else -own.tau)
    return table(
        "held-out figures of every candidate, best first",
        ["candidate", "step", "loss", "tau", "trials"],
        [
            [
                short(own.candidate),
                str(own.step),
                f"{own.loss:.3f}",
                f"{own.tau:.3f}",
                str(own.trials),
            ]
            for own in found[:20]
        ],
    )
