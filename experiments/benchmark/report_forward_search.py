"""The benchmark of forward search as aligned tables."""

from typing import Any

from experiments.benchmark.forward_search import PHASES, TORCH
from spd_jax.report.text import duration, table


def tables(summary: dict[str, Any]) -> str:
    """Return every network that was measured as aligned text.

    Args:
      summary: what the benchmark writes as summary.json.
    """
    nets = {phase: summary[phase] for phase in PHASES if phase in summary}
    lines = []
    for phase, own in nets.items():
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
            f"{phase}: {own['multiply_adds'] / 1e6:.3g}M multiply-adds, batch {own['batch']}, "
            f"{own['rounds']} rounds{words}"
        )
        headers = ["", "step", "least to most", "images/s", "x PyTorch"]
        lines.append(table(title, headers, rows))
    return "\n".join([*lines, *_bar(list(nets.values()))])


def _bar(nets: list[dict[str, Any]]) -> list[str]:
    """Say whether the bar was met, by the slowest phase in its fastest form."""
    ratios = [
        own["seconds"][TORCH]["median"]
        / min(seconds["median"] for name, seconds in own["seconds"].items() if name != TORCH)
        for own in nets
        if TORCH in own["seconds"]
    ]
    if not ratios:
        return ["  PyTorch is not installed: nothing to compare with"]
    bar = nets[0]["bar"]
    met = "met" if min(ratios) >= bar else "NOT met"
    return [f"  images/s: {min(ratios):.2f} x PyTorch's, at least {bar:g}: {met}"]
