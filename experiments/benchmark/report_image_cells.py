"""The benchmark of the image-cell dishes as aligned tables."""

from collections.abc import Iterator, Mapping
from typing import Any

from spd_jax.report.text import duration, table

Summary = dict[str, Any]


def tables(summary: Summary) -> str:
    """Return every part that was measured as aligned text.

    Args:
      summary: what the benchmark writes as summary.json.
    """
    parts = {"query": _query_table, "fit": _fit_table}
    made = [make(summary[name]) for name, make in parts.items() if name in summary]
    return "\n".join([*made, *_bars(summary)])


def _query_table(query: Summary) -> str:
    rows = []
    for row in query["rows"].values():
        each = row["seconds_per_cell"]
        spread = f"{min(each['values']):.3f} to {max(each['values']):.3f}"
        times = [duration(row["compile_seconds"]), f"{each['median']:.3f}", spread]
        rows.append([row["label"], *times, f"{row['ratio']:.3g}"])
    title = (
        f"Querying {query['ranked_cells']} new cells; {query['rounds']} rounds in turn, medians\n"
        f"({_paper(query['paper_seconds_per_cell'])} in the paper)"
    )
    return table(title, ["", "compile", "s/cell", "least to most", "ratio"], rows)


def _fit_table(fit: Summary) -> str:
    step = fit["step_seconds"]
    spread = f"{duration(min(step['values']))} to {duration(max(step['values']))}"
    row = [duration(fit["compile_seconds"]), duration(step["median"]), spread]
    row.append(duration(fit["seconds"]["median"]))
    title = (
        f"Fitting preset best to {fit['known_cells']} cells; {fit['rounds']} rounds, medians\n"
        f"({_paper(fit['paper_seconds'])} in the paper)"
    )
    headers = ["compile", "one outer step", "least to most", f"{fit['outer_steps']} outer steps"]
    return table(title, headers, [row])


def _paper(seconds: Mapping[str, float]) -> str:
    """Return the paper's seconds of each motif-network in words."""
    return ", ".join(f"{name} {duration(own)}" for name, own in seconds.items())


def _bars(summary: Summary) -> Iterator[str]:
    """Say what the bars ask for and what was measured."""
    if "query" in summary:
        bar = summary["query"]["bar"]
        met = "met" if bar["measured"] <= bar["seconds_per_cell"] else "NOT met"
        words = f"{bar['measured']:.3f} s/cell (the slower dish)"
        yield f"  query: {words}, at most {bar['seconds_per_cell']:g}: {met}"
    if "fit" in summary:
        bar = summary["fit"]["bar"]
        met = "met" if bar["measured"] <= bar["seconds"] else "NOT met"
        yield f"  fit: {duration(bar['measured'])}, at most {duration(bar['seconds'])}: {met}"
