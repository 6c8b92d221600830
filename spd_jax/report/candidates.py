"""A comparison of a dish's settings: one table, the best first."""

from collections.abc import Sequence

from spd_jax.report.text import table
from spd_jax.studies.candidates import Look


def results(looks: Sequence[Look]) -> str:
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
