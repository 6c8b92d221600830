"""A table of ground truths that was bought: what it cost, and how noisy it is."""

from collections.abc import Mapping
from typing import Any

from spd_jax.report.text import duration


def results(summary: Mapping[str, Any]) -> str:
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
