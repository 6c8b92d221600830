"""The benchmark as aligned tables and as one picture."""

import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spd_jax.errors import UserError
from spd_jax.files import atomic_path
from spd_jax.report.style import INK, label_axes
from spd_jax.report.text import duration, table

# Okabe and Ito (2008), told apart under every common colour blindness.
DISH, OTHER, NESTED = "#009E73", "#999999", "#0072B2"
PROGRAMS = {"predict": "predict", "outer_gradient": "outer gradient"}
Summary = dict[str, Any]
Panel = Callable[[Axes, Summary], None]


def tables(summary: Summary) -> str:
    """Return every part that was measured as aligned text.

    Args:
      summary: what the benchmark writes as summary.json.
    """
    parts = {"peers": _peer_tables, "growth": _growth_tables, "limit": _limit_tables}
    made = [table for name, make in parts.items() if name in summary for table in make(summary)]
    return "\n".join(made)


def _spread(seconds: Summary) -> str:
    """Return median and quartiles in the unit of the median."""
    factor, unit = (1e3, "ms") if seconds["median"] < 1 else (1, "s")
    median, low, high = (f"{seconds[name] * factor:.3g}" for name in ("median", "q25", "q75"))
    return f"{median} ({low} to {high}) {unit}"


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _peer_tables(summary: Summary) -> Iterator[str]:
    peers, rows = summary["peers"], []
    for row in peers["rows"].values():
        if "seconds" not in row:
            rows.append([row["label"], row["library"], "-", "-", row["status"], "-", "-"])
            continue
        timed = f"{row['steps_timed']} of {peers['outer_steps']}"
        cells = [duration(row["compile_seconds"]), timed, _spread(row["seconds"])]
        cells += [f"{row['ratio']:.3g}", f"{row['inner_loss_difference']:.1e}"]
        rows.append([row["label"], row["library"], *cells])
    headers = ["", "library", "compile", "steps timed", "median (quartiles)", "ratio", "difference"]
    title = (
        f"Training one dish: {peers['motifs']} motifs, {peers['inner_steps']} inner and "
        f"{peers['outer_steps']} outer steps; {peers['rounds']} rounds in turn; fewer steps timed "
        "are scaled\n(ratio: of medians, to this dish on 1 device; difference: largest, of inner "
        "losses, in nats)"
    )
    yield table(title, headers, rows)


def _growth_tables(summary: Summary) -> Iterator[str]:
    growth = summary["growth"]
    cost = ["compile", "median (quartiles)", "temp MiB"]

    def costs(row: Summary) -> list[str]:
        seconds = duration(row["compile_seconds"]), _spread(row["seconds"])
        return [*seconds, _mib(row["temp_mib"])]

    rows = [
        [f"{row['motifs']:,}", *costs(row), f"{row['motifs_per_second']['median']:,.0f}"]
        for row in growth["predict"]
    ]
    yield table("Predict, one device", ["motifs", *cost, "motifs/s"], rows)
    rows = [[f"{row['motifs']:,}", *costs(row)] for row in growth["fit"]]
    yield table("One outer step, one device", ["motifs", *cost], rows)
    rows = [
        [f"{row['inner_steps']:,}", remat, *costs(row[remat]), f"{row['nested_over_step']:.2f}"]
        for row in growth["unroll"]
        for remat in ("step", "nested")
    ]
    title = f"One outer step of {growth['step_motifs']} motifs, one device"
    yield table(title, ["inner steps", "remat", *cost, "nested/step"], rows)
    rows = [[f"{row['dishes']:,}", *costs(row)] for row in growth["ensemble"]]
    yield table("One outer step of 18 motifs in every dish, one device", ["dishes", *cost], rows)
    predicted, fitted = growth["device_motifs"]
    headers = ["devices", f"predict {predicted:,}", f"one outer step of {fitted:,}"]
    rows = [
        [f"{row['devices']}", _spread(row["predict"]["seconds"]), _spread(row["fit"]["seconds"])]
        for row in growth["devices"]
    ]
    yield table("The motif axis over several devices", headers, rows)


def _limit_tables(summary: Summary) -> Iterator[str]:
    limit, rows = summary["limit"], []
    for name, label in PROGRAMS.items():
        part = limit["programs"][name]
        kinds = part["arithmetic_per_step"]
        counts = [f"{kinds[kind]:,.0f}" for kind in ("simple", "exp", "divide", "sqrt")]
        xla = part["xla_operations_per_step"]
        counts.append("-" if xla is None else f"{xla:,.0f}")
        rates = [
            f"{part['achieved_gop_per_second']:.3g} of {part['attainable_gop_per_second']:.3g}"
        ]
        rates += [f"{part['arithmetic_share']:.0%}"]
        rates += [f"{part['achieved_gb_per_second']:.3g} of {part['attainable_gb_per_second']:.3g}"]
        rates += [f"{part['bytes_share']:.0%}", part["bound"]]
        rows.append([label, *counts, *rates])
    headers = ["", "simple", "exp", "divide", "sqrt", "XLA's", "Gop/s", "share", "GB/s", "share"]
    title = (
        f"Against the machine (devices: {limit['devices']}): operations of one inner step of one "
        "motif; achieved of attainable\n(attainable: the same mix on long vectors in cache, and "
        "reading two vectors and writing one; bytes are the least)"
    )
    yield table(title, [*headers, "bound"], rows)
    for name, label in PROGRAMS.items():
        part = limit["programs"][name]
        shares = ", ".join(
            f"{kind} {part[f'{kind}_share']:.0%}" for kind in ("arithmetic", "bytes")
        )
        rest = f"neither explains {part['overhead_share']:.0%} of its time"
        yield f"  {label}: nearer the bound of {part['bound']} ({shares}); {rest}"


def draw(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Draw benchmark.png from the summary.json beside it.

    Args:
      workdir: folder of a finished benchmark.

    Returns:
      The picture's path.

    Raises:
      UserError: summary.json is missing or is not a benchmark's.
    """
    source = pathlib.Path(workdir) / "summary.json"
    try:
        figure = picture(json.loads(source.read_text(encoding="utf-8")))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source} is no benchmark ({error!r}): draw a finished run") from error
    path = source.with_name("benchmark.png")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return path


def picture(summary: Summary) -> Figure:
    """Return the picture: one panel for every question whose part was measured."""
    wide: list[Panel] = [
        panel for name, panel in (("peers", _peers), ("limit", _limit)) if name in summary
    ]
    panels: list[Panel] = [_predict, _fit, _ensemble, _unroll_time, _unroll_memory, _devices]
    if "growth" not in summary:
        panels = []
    rows = bool(wide) + len(panels) // 3
    figure = Figure(figsize=(13, 3.9 * rows + 0.4), layout="constrained")
    grid = figure.add_gridspec(rows, 6)
    for place, draw_panel in enumerate(wide):
        span = slice(None) if len(wide) == 1 else slice(*((0, 4), (4, 6))[place])
        draw_panel(figure.add_subplot(grid[0, span]), summary)
    for place, draw_panel in enumerate(panels):
        row, column = divmod(place, 3)
        cell = grid[bool(wide) + row, 2 * column : 2 * column + 2]
        draw_panel(figure.add_subplot(cell), summary["growth"])
    return figure


def _peers(axes: Axes, summary: Summary) -> None:
    peers = summary["peers"]
    rows = list(peers["rows"].values())
    timed = [row for row in rows if "seconds" in row]
    largest = max(row["seconds"]["q75"] for row in timed)
    smallest = min(row["seconds"]["q25"] for row in timed)
    style: dict[str, Any]
    for place, row in enumerate(rows):
        if "seconds" not in row:
            style = {"transform": axes.get_yaxis_transform(), "color": INK, "fontsize": 9}
            axes.text(0.012, place, row["status"], va="center", **style)
            continue
        seconds = row["seconds"]
        ours = row["label"].startswith("this dish")
        scaled = row["steps_timed"] < peers["outer_steps"]
        error = [[seconds["median"] - seconds["q25"]], [seconds["q75"] - seconds["median"]]]
        style = {"xerr": error, "color": DISH if ours else OTHER, "height": 0.66}
        bar = axes.barh(place, seconds["median"], hatch="///" if scaled else "", **style)
        bar.patches[0].set(edgecolor="white", linewidth=0)
        words = f"  {duration(seconds['median'])}"
        if row is not peers["rows"][peers["reference"]]:
            words += f"   ({row['ratio']:.3g} times the first)"
        axes.text(seconds["q75"], place, words, va="center", color=INK, fontsize=9)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.set_xlim(smallest / 3, largest * (largest / smallest) ** 0.3 * 2)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    title = f"Training one dish ({peers['motifs']} motifs, {peers['inner_steps']} inner steps)"
    horizontal = f"seconds for {peers['outer_steps']} outer steps, compiled (hatched: scaled up)"
    label_axes(axes, title, horizontal, "")
    axes.grid(visible=False, axis="y")


def _limit(axes: Axes, summary: Summary) -> None:
    names = [name for name in PROGRAMS if name in summary["limit"]["programs"]]
    parts = [summary["limit"]["programs"][name] for name in names]
    kinds = (("arithmetic", DISH, "gop", "Gop/s"), ("bytes", NESTED, "gb", "GB/s"))
    for shift, (kind, colour, unit, words) in zip((-0.2, 0.2), kinds, strict=True):
        shares = [100 * part[f"{kind}_share"] for part in parts]
        places = np.arange(len(parts)) + shift
        axes.bar(places, shares, 0.36, color=colour, label=f"{kind}, {words}")
        for place, share, part in zip(places, shares, parts, strict=True):
            achieved = part[f"achieved_{unit}_per_second"], part[f"attainable_{unit}_per_second"]
            text = f"{share:.0f} %\n{achieved[0]:.3g} of\n{achieved[1]:.3g}"
            axes.text(place, share, text, ha="center", va="bottom", fontsize=8, color=INK)
    axes.set_xticks(range(len(parts)), [PROGRAMS[name] for name in names])
    axes.set_ylim(0, max(100, 1.25 * axes.get_ylim()[1]))
    label_axes(axes, "Share of what the machine can do", "", "achieved / attainable (%)")
    axes.legend(frameon=False, fontsize=9, loc="upper right")


def _predict(axes: Axes, growth: Summary) -> None:
    rows = growth["predict"]
    _line(axes, rows, "motifs", "motifs_per_second", DISH)
    _measured_ticks(axes, [row["motifs"] for row in rows])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    label_axes(axes, "Predict", "motifs M", "motifs per second, one device")


def _fit(axes: Axes, growth: Summary) -> None:
    _line(axes, growth["fit"], "motifs", "seconds", DISH)
    _proportional(axes, growth["fit"], "motifs")
    _logarithmic(axes, [row["motifs"] for row in growth["fit"]])
    label_axes(axes, "One outer step", "motifs M", "seconds, one device")


def _ensemble(axes: Axes, growth: Summary) -> None:
    _line(axes, growth["ensemble"], "dishes", "seconds", DISH)
    _proportional(axes, growth["ensemble"], "dishes")
    _logarithmic(axes, [row["dishes"] for row in growth["ensemble"]])
    label_axes(
        axes, "One outer step of an ensemble", "dishes E (18 motifs each)", "seconds, one device"
    )


def _unroll_time(axes: Axes, growth: Summary) -> None:
    for remat, colour in (("step", DISH), ("nested", NESTED)):
        rows = [{"inner_steps": row["inner_steps"], **row[remat]} for row in growth["unroll"]]
        _line(axes, rows, "inner_steps", "seconds", colour, remat)
    _logarithmic(axes, [row["inner_steps"] for row in growth["unroll"]])
    title = f"One outer step of {growth['step_motifs']} motifs: time"
    label_axes(axes, title, "inner steps T", "seconds, one device")
    axes.legend(frameon=False, fontsize=9, title="scan over steps")


def _unroll_memory(axes: Axes, growth: Summary) -> None:
    for remat, colour, marker in (("step", DISH, "o"), ("nested", NESTED, "s")):
        known = [row for row in growth["unroll"] if row[remat]["temp_mib"] is not None]
        steps = [row["inner_steps"] for row in known]
        memory = [row[remat]["temp_mib"] for row in known]
        axes.plot(steps, memory, color=colour, marker=marker, label=remat, lw=2)
        if known:
            words = f"{memory[-1]:,.3g} MiB "
            axes.annotate(
                words,
                (steps[-1], memory[-1]),
                (0, 8),
                ha="right",
                color=colour,
                textcoords="offset points",
                fontsize=9,
            )
    _logarithmic(axes, [row["inner_steps"] for row in growth["unroll"]])
    title = f"One outer step of {growth['step_motifs']} motifs: memory"
    label_axes(axes, title, "inner steps T", "temporary memory (MiB)")
    axes.legend(frameon=False, fontsize=9, title="scan over steps")


def _devices(axes: Axes, growth: Summary) -> None:
    rows = growth["devices"]
    counts = [row["devices"] for row in rows]
    kinds = (("predict", DISH, "o"), ("fit", NESTED, "s"))
    words = {"predict": "predict {:,} motifs", "fit": "outer step of {:,}"}
    for kind, colour, marker in kinds:
        medians = [row[kind]["seconds"]["median"] for row in rows]
        label = words[kind].format(rows[0][kind]["motifs"])
        speed = np.divide(medians[0], medians)
        axes.plot(counts, speed, color=colour, marker=marker, lw=2, label=label)
    axes.plot(counts, counts, color=OTHER, ls=":", label="ideal")
    axes.set_ylim(bottom=0)
    axes.set_xticks(counts)
    axes.margins(x=0.1)
    label_axes(axes, "Motif axis over several devices", "devices", "times as fast as one device")
    axes.legend(frameon=False, fontsize=9)


def _line(
    axes: Axes,
    rows: Sequence[Summary],
    axis: str,
    figure: str,
    colour: str,
    label: str = "",
) -> None:
    """Draw medians, and quartiles as bars, against an axis of growth."""
    places = [row[axis] for row in rows]
    median, low, high = (
        np.array([row[figure][name] for row in rows]) for name in ("median", "q25", "q75")
    )
    style: dict[str, Any] = {"color": colour, "lw": 2, "capsize": 3, "elinewidth": 1}
    marker = "s" if colour == NESTED else "o"
    # As lists: matplotlib before 3.11 takes an array of one for a number, which numpy warns of.
    bars = [(median - low).tolist(), (high - median).tolist()]
    axes.errorbar(places, median, yerr=bars, marker=marker, label=label, **style)


def _proportional(axes: Axes, rows: Sequence[Summary], axis: str) -> None:
    """Draw what a time that is proportional to the axis would be, from the last point back."""
    places = np.array([row[axis] for row in rows], float)
    last = rows[-1]["seconds"]["median"]
    axes.plot(
        places, last * places / places[-1], color=OTHER, ls=":", zorder=1, label="proportional"
    )
    axes.legend(*_only(axes, "proportional"), frameon=False, fontsize=9)


def _only(axes: Axes, wanted: str) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return [handles[labels.index(wanted)]], [wanted]


def _measured_ticks(axes: Axes, ticks: Sequence[int]) -> None:
    """Make the horizontal axis logarithmic, with ticks where something was measured."""
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.margins(0.06, 0.12)


def _logarithmic(axes: Axes, ticks: Sequence[int]) -> None:
    """Make both axes logarithmic; ticks as `_measured_ticks`."""
    _measured_ticks(axes, ticks)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
