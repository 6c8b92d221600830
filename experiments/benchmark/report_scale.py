"""The benchmark of ranking very many motifs as aligned tables."""

from typing import Any

from spd_jax.report.text import duration, table

Summary = dict[str, Any]


def tables(summary: Summary) -> str:
    """Return every part that was measured as aligned text.

    Args:
      summary: what the benchmark writes as summary.json.
    """
    parts = {"stream": _stream_table, "divided": _divided_table}
    return "\n".join(make(summary[name]) for name, make in parts.items() if name in summary)


def _stream_table(part: Summary) -> str:
    rows = [
        [
            f"{row['motifs']:,}",
            duration(row["seconds"]),
            f"{row['motifs_per_second']:,.0f}",
            f"{row['peak_mib']:,.0f}",
        ]
        for row in part["rows"]
    ]
    title = (
        f"The best {part['top']} of a stream of slopes, {part['devices']} devices, "
        f"batches of {part['batch']:,}"
    )
    return table(title, ["motifs", "time", "motifs/s", "peak MiB of the process"], rows)


def _divided_table(part: Summary) -> str:
    rows = []
    for row in part["rows"]:
        rate = row["motifs_per_second"]
        most = f"{min(rate['values']):,.0f} to {max(rate['values']):,.0f}"
        rows.append(
            [row["who"], duration(row["seconds"]["median"]), f"{rate['median']:,.0f}", most]
        )
    title = (
        f"{part['divided_motifs']:,} slopes, the same best everywhere; medians of "
        f"{part['rounds']} rounds\n"
        "(workers: their start and compiling included)"
    )
    return table(title, ["who", "time", "motifs/s", "least to most"], rows)
