"""The benchmark of forward search as aligned tables."""

from typing import Any

from experiments.benchmark.forward_search import TORCH
from spd_jax.report.text import duration, table


def tables(summary: dict[str, Any]) -> str:
    """Return every network that was measured as aligned text.

    Args:
      summary: what the benchmark writes as summary.json.
    """
    found = summary["search_net"]
    lines = []
    for phase, own in found["nets"].items():
        threads = own["torch_threads"]
        reference = own["seconds"].get(TORCH, {}).get("median")
        rows = []
        for name, seconds in own["seconds"].items():
            spread = f"{duration(min(seconds['values']))} to {duration(max(seconds['values']))}"
            pace = own["images_per_second"][name]["median"]
            times = "" if reference is None else f"{reference / seconds['median']:.3g}"
            rows.append([name, duration(seconds["median"]), spread, f"{pace:.0f}", times])
        words = "" if threads is None else f", PyTorch with {threads} thread(s)"
        title = (
            f"{phase}: {own['multiply_adds'] / 1e6:.3g}M multiply-adds, batch {found['batch']}, "
            f"{found['rounds']} rounds{words}"
        )
        headers = ["", "step", "least to most", "images/s", "x PyTorch"]
        lines.append(table(title, headers, rows))
    return "\n".join([*lines, *_bar(found)])


def _bar(found: dict[str, Any]) -> list[str]:
    """Say whether the bar was met, by the slowest phase in its fastest form."""
    ratios = [
        own["seconds"][TORCH]["median"]
        / min(seconds["median"] for name, seconds in own["seconds"].items() if name != TORCH)
        for own in found["nets"].values()
        if TORCH in own["seconds"]
    ]
    if not ratios:
        return ["  PyTorch is not installed: nothing to compare with"]
    met = "met" if min(ratios) >= found["bar"] else "NOT met"
    return [f"  images/s: {min(ratios):.2f} x PyTorch's, at least {found['bar']:g}: {met}"]
