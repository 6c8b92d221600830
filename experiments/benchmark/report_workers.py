"""The benchmark of workers as aligned tables."""

from typing import Any

from spd_jax.report.text import duration, table


def tables(summary: dict[str, Any]) -> str:
    """Return what was measured as aligned text.

    Args:
      summary: what the benchmark writes as summary.json.
    """
    parts = {"idle": _idle, "sleep": _sleep, "cluster": _cluster}
    return "\n".join(part(summary[name]) for name, part in parts.items() if name in summary)


def _idle(own: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['sigma']:g}", row["schedule"], *_median(row["idle_share"], 100, "%"),
            *_median(row["hours"], 1, " h"), f"{_mean(row['test']):.4f}",
        ]
        for row in own["rows"]
    ]  # fmt: skip
    title = (
        f"{own['workers']} simulated workers, median {duration(own['median_seconds'])}, "
        f"{len(own['rows'][0]['hours']['values'])} searches each, on {own['table']}"
    )
    heads = ["sigma", "schedule, K", "idle", "quartiles", "search", "quartiles", "mean test score"]
    return table(title, heads, rows)


def _sleep(own: dict[str, Any]) -> str:
    rows = [
        [
            row["schedule"], f"{row['idle_share']:.1%}", duration(row["seconds"]),
            f"{row['simulated_idle_share']:.1%}", duration(row["simulated_seconds"]),
        ]
        for row in own["rows"]
    ]  # fmt: skip
    title = f"{own['workers']} local workers that sleep, {own['evaluations']} evaluations"
    return table(title, ["schedule", "idle", "search", "simulated idle", "simulated"], rows)


def _cluster(own: dict[str, Any]) -> str:
    ledger = own["ledger"]
    paces = " ".join(f"{pace:.0f}" for pace in ledger["rows_per_second"])
    names = [name for name in own["choices"][0] if name != "known"]
    choices = [[str(x["known"]), *(duration(x[name]) for name in names)] for x in own["choices"]]
    slots = [
        [
            str(x["slots"]), str(x["tasks"]), f"{x['idle_share']:.1%}", duration(x["seconds"]),
            duration(x["first_result"]), *(f"{1000 * s:.2f}" for s in x["cpu_per_result"].values()),
            f"{x['scheduler_bytes'] / 2**20:.0f}",
        ]
        for x in own["slots"]
    ]  # fmt: skip
    title = f"real slots that sleep {own['slots'][0]['task_seconds']:g} s; CPU ms per result"
    heads = ["slots", "tasks", "idle", "all", "first", "program", "scheduler", "workers", "MiB"]
    return "\n".join(
        [
            f"ledger: {ledger['rows']} rows, {ledger['bytes'] / ledger['rows']:.0f} bytes each; "
            f"rows/s by fifths: {paces}",
            table("one choice, CPU seconds", ["known", *names], choices),
            table(title, heads, slots),
        ]
    )


def _mean(spread: dict[str, Any]) -> float:
    return float(sum(spread["values"]) / len(spread["values"]))


def _median(spread: dict[str, Any], scale: float, unit: str) -> tuple[str, str]:
    low, high = spread["q25"] * scale, spread["q75"] * scale
    return f"{spread['median'] * scale:.1f}{unit}", f"{low:.1f} to {high:.1f}"
