"""The benchmark of the recurrent-cell dish as aligned tables."""

from collections.abc import Iterator
from typing import Any

from spd_jax.report.text import duration, table

Summary = dict[str, Any]


def tables(summary: Summary) -> str:
    """Return every part that was measured as aligned text.

    Args:
      summary: what the benchmark writes as summary.json.
    """
    parts = {"peers": _peer_table, "ranking": _ranking_table}
    made = [make(summary[name]) for name, make in parts.items() if name in summary]
    return "\n".join([*made, *_bars(summary)])


def _range(values: list[float]) -> str:
    """Return the least and the largest."""
    return f"{duration(min(values))} to {duration(max(values))}"


def _peer_table(peers: Summary) -> str:
    rows = []
    for row in peers["rows"].values():
        if "seconds" not in row:
            rows.append([row["label"], row["library"], row["status"], *["-"] * 6])
            continue
        step = row["step_seconds"]
        cells = [duration(row["compile_seconds"]), duration(step["median"])]
        cells += [_range(step["values"]), f"{row['inner_steps_timed']}"]
        cells += [duration(row["seconds"]["median"]), f"{row['ratio']:.3g}"]
        differences = row["inner_loss_difference"], row["outer_gradient_difference"]
        cells.append(" ".join(f"{difference:.1e}" for difference in differences))
        rows.append([row["label"], row["library"], *cells])
    headers = ["", "library", "compile", "one outer step", "least to most", "inner steps timed"]
    headers += [f"{peers['outer_steps']} outer steps", "ratio", "differences"]
    title = (
        f"Training one dish: {peers['motifs']} cells, {peers['inner_steps']} inner steps; "
        f"{peers['rounds']} rounds in turn, medians\n(one outer step is timed and multiplied; "
        f"fewer inner steps are scaled up to {peers['inner_steps']}; peers leave out outer Adam;\n"
        "ratio: to this dish on 1 device; differences from it: inner losses in nats, outer "
        "gradient as a share of its largest entry)"
    )
    return table(title, headers, rows)


def _ranking_table(ranking: Summary) -> str:
    rows = []
    for row in ranking["rows"].values():
        rate = row["cells_per_second"]
        seconds = [duration(row["compile_seconds"]), duration(row["seconds"]["median"])]
        least, most = min(rate["values"]), max(rate["values"])
        rates = [f"{rate['median']:.3g}", f"{least:.3g} to {most:.3g}"]
        rows.append([row["label"], *seconds, *rates])
    headers = ["", "compile", "seconds", "cells/s", "least to most"]
    title = (
        f"Ranking {ranking['ranked_cells']} new cells, {ranking['inner_steps']} inner steps; "
        f"{ranking['rounds']} rounds, medians"
    )
    return table(title, headers, rows)


def _bars(summary: Summary) -> Iterator[str]:
    """Say what the bars ask for and what was measured."""
    if "peers" in summary:
        bar, steps = summary["peers"]["bar"], summary["peers"]["outer_steps"]
        met = "met" if bar["measured"] <= bar["seconds"] else "NOT met"
        words = f"{duration(bar['measured'])} ({bar['by']}), at most {bar['seconds']} s: {met}"
        yield f"  training, {steps} outer steps: {words}"
    if "ranking" in summary:
        bar = summary["ranking"]["bar"]
        met = "met" if bar["measured"] >= bar["cells_per_second"] else "NOT met"
        words = f"{bar['measured']:.3g} cells/s ({bar['by']}), at least {bar['cells_per_second']}"
        yield f"  ranking: {words}: {met}"
