"""Recurrent-cell search on a language model (Rawal et al., section 4.2, Algorithm 1, figure 3).

Every method spends the same number of ground truths; the methods of one run share its warm
start. Without --data_dir the recorded runs are replayed.
"""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import dish_flags
from spd_jax.errors import UserError
from spd_jax.ground_truth import lookup as tabular
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Ledger
from spd_jax.ledger import table as cell_table
from spd_jax.problems.rnn_cell import PRESETS
from spd_jax.report import search as report
from spd_jax.report.search_table import SearchTable, in_unit, results
from spd_jax.search.genetic import Genetic
from spd_jax.search.loop import SearchConfig, check
from spd_jax.spaces.rnn_cell import VARIANTS, RnnCellSpace, drawing
from spd_jax.spaces.rnn_cell.network import family, num_parameters
from spd_jax.studies import run_folder
from spd_jax.studies import search_comparison as runs
from spd_jax.studies.run_folder import RunFolder
from spd_jax.studies.search_comparison import METHODS, Methods, Record
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.nao import NaoConfig
from spd_jax.trainers.language_model.network import PRESETS as LANGUAGE_MODELS
from spd_jax.trainers.language_model.task import LanguageModelTask

_METHOD = flags.DEFINE_enum("method", "all", ["all", *METHODS], "who searches")
_ITERATIONS = flags.DEFINE_integer("iterations", 3, "after the warm start", lower_bound=0)
_WARM_START = flags.DEFINE_integer("warm_start", 40, "random cells to begin with", lower_bound=4)
_PROPOSALS = flags.DEFINE_integer("proposals", 100, "cells ranked each iteration", lower_bound=1)
_EVALUATIONS = flags.DEFINE_integer("evaluations", 20, "cells trained of them", lower_bound=1)
_SEEDS = flags.DEFINE_integer("seeds", 5, "runs of every method", lower_bound=1)
_PRESET = flags.DEFINE_enum("preset", "tiny", list(LANGUAGE_MODELS), "the language model")
_VARIANT = flags.DEFINE_enum("variant", "enas_mean", VARIANTS, "variant of the cell")
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    'folder of the text, or "download" for the Penn Treebank; default: replay the recorded runs',
)
_WORKERS = flags.DEFINE_integer("workers", 0, "processes that train cells", lower_bound=0)
_DISH = flags.DEFINE_enum("dish", "best", list(PRESETS), "preset of the dish; flags change it")
_RANK_WITH = flags.DEFINE_enum(
    "rank_with", "dish", ["dish", "averaged"],
    "what dish methods rank proposals by: the dish, or its mean with a Gaussian process",
)  # fmt: skip
_HIDDEN = flags.DEFINE_integer("hidden_size", 3, "width of the dish's network", lower_bound=1)
_HELD_OUT = flags.DEFINE_float(
    "held_out_share", 0.0, "share of the known cells that early stopping holds out",
    lower_bound=0.0, upper_bound=0.9,
)  # fmt: skip
_MUTATION = flags.DEFINE_float(
    "mutation_rate", 0.1, "of a locus (the paper's is lost)", lower_bound=0.0, upper_bound=1.0
)
_CROSSOVER = flags.DEFINE_float(
    "crossover_rate", 0.5, "of a pair (the paper's is lost)", lower_bound=0.0, upper_bound=1.0
)
_NAO_EPOCHS = flags.DEFINE_integer("nao_epochs", 300, "of NAO's network; published: 1000")
_PARTIAL = flags.DEFINE_integer("partial_epochs", 1, "before partial ranks", lower_bound=1)
_RECORD = flags.DEFINE_string("history", None, "history.csv to replay; default: the shipped one")
dish_flags.define()

Records = dict[tuple[str, int], Record]


def chosen_methods() -> list[str]:
    """Return the methods that the flags ask for."""
    return list(METHODS) if _METHOD.value == "all" else [_METHOD.value]


def search_config(method: str) -> SearchConfig:
    """Return the sizes of a search.

    Partial evaluation pays for what it ranks: it takes as many iterations as the ground
    truths of the others pay for.
    """
    sizes = SearchConfig(_WARM_START.value, _ITERATIONS.value, _PROPOSALS.value, _EVALUATIONS.value)
    if method != "partial":
        return sizes
    epochs = LANGUAGE_MODELS[_PRESET.value].epochs
    if _PARTIAL.value >= epochs:
        raise UserError(
            f"--partial_epochs={_PARTIAL.value} must be below the {epochs} of a training"
        )
    each = sizes.proposals * _PARTIAL.value / epochs + sizes.evaluations
    affordable = max(int(sizes.iterations * sizes.evaluations / each), 1)
    return dataclasses.replace(sizes, iterations=min(affordable, sizes.iterations))


def methods_and_settings() -> tuple[Methods, dict[str, Any]]:
    """Return what the methods are made of, and all that decides results, JSON-ready."""
    config = dish_flags.read(PRESETS[_DISH.value])
    space = RnnCellSpace(_VARIANT.value, _MUTATION.value)
    dish = DishSurrogate(
        family(_VARIANT.value, hidden=_HIDDEN.value), config, _HELD_OUT.value,
        run_folder.motif_sharding(),
    )  # fmt: skip
    nao = NaoConfig(epochs=_NAO_EPOCHS.value)
    nao.check()
    genetic = Genetic(parents=20, crossover_rate=_CROSSOVER.value)
    described = {
        "variant": _VARIANT.value,
        "preset": _PRESET.value,
        "warm_start": _WARM_START.value,
        "proposals": _PROPOSALS.value,
        "evaluations": _EVALUATIONS.value,
        "mutation_rate": _MUTATION.value,
        "crossover_rate": _CROSSOVER.value,
        "nao_epochs": _NAO_EPOCHS.value,
        "partial_epochs": _PARTIAL.value,
        "hidden_size": _HIDDEN.value,
        "held_out_share": _HELD_OUT.value,
        "dish": {k: np.asarray(v).tolist() for k, v in dataclasses.asdict(config).items()},
    }
    averaged = _RANK_WITH.value == "averaged"
    if averaged:  # named only then: runs of the dish alone were recorded before this choice
        described["rank_with"] = _RANK_WITH.value
    return Methods(space, dish, genetic, nao, _PARTIAL.value, averaged), described


def check_sizes() -> None:
    """Refuse sizes that cannot be, before anything is written or trained."""
    if _DATA_DIR.value == "":
        raise UserError("--data_dir is empty: give the folder of a text, or download")
    if _RECORD.value and _DATA_DIR.value:
        raise UserError(
            "--history replays and --data_dir searches anew: give one of them, not both"
        )
    for method in chosen_methods():
        check(search_config(method), ranked=method == "partial" or method.startswith("dish_"))


def unit() -> str:
    """Return the unit of results: of a text's characters, or of its words."""
    words = LANGUAGE_MODELS[_PRESET.value].level == "word"
    return "perplexity" if words else "bits per character"


def search_all(folder: RunFolder, methods: Methods, ground_truth: GroundTruth) -> Records:
    """Run, resume or read every search, run by run."""
    records: Records = {}
    ceiling = (noise_ceiling(ground_truth.task.fingerprint) or {}).get("noise_ceiling")
    for run in range(_SEEDS.value):
        for method in chosen_methods():
            config = search_config(method)
            saved = runs.finished(folder, method, run, config)
            if saved is not None:
                records[method, run] = saved
                continue
            total = config.warm_start + config.iterations * config.evaluations
            title = f"{method}, run {run + 1} of {_SEEDS.value}"
            with SearchTable(title, total, unit=unit(), ceiling=ceiling) as table:
                show = runs.Shower(table, ground_truth)
                records[method, run] = runs.run_search(
                    folder, methods, ground_truth, config,
                    method=method, run=run, on_iteration=show.iteration,
                )  # fmt: skip
    return records


def recorded_path() -> pathlib.Path:
    """Return the history that a replay reads."""
    name = f"rnn_cell_search_ptb_{_PRESET.value}"
    return pathlib.Path(_RECORD.value) if _RECORD.value else tabular.shipped(name)


def replay(described: dict[str, Any]) -> tuple[Records, str]:
    """Return the recorded searches, cut to the iterations that were asked for, and their task.

    Raises:
      UserError: something was asked for that was not recorded.
    """
    path = recorded_path()
    recorded, comments = runs.read_history(path)
    entries = [entry for record in recorded.values() for entry in record]
    for cell in dict.fromkeys(cell for entry in entries for cell in entry["cells"]):
        try:
            RnnCellSpace(_VARIANT.value).decode(cell)
        except UserError as error:
            raise UserError(f"{path} is damaged, or has another --variant: {error}") from error
    print(f"replaying the recorded runs of {path}: nothing is trained; --data_dir searches anew")
    if comments.get("settings") != settings_text(described):
        raise UserError(
            f"the recorded runs had other settings ({differing(described, comments)}), so their "
            f"cells do not answer: give --data_dir to search anew; {path} begins with theirs"
        )
    records: Records = {}
    for run in range(_SEEDS.value):
        for method in chosen_methods():
            record = recorded.get((method, run), [])
            wanted = search_config(method).iterations + 1
            if len(record) < wanted:
                raise UserError(
                    f"{method}, run {run + 1} with {wanted - 1} iterations is outside the recorded "
                    "runs: give --data_dir to evaluate its cells"
                )
            records[method, run] = record[:wanted]
    return records, comments.get("task", "")


def settings_text(described: dict[str, Any]) -> str:
    """Return settings as one line, as a history's comment holds them."""
    return " ".join(f"{k}={v}" for k, v in described.items())


def differing(described: dict[str, Any], comments: dict[str, str]) -> str:
    """Return the names of the settings that a history's comment does not hold."""
    recorded = comments.get("settings", "") + " "
    names = [k for k, v in described.items() if k != "dish" and f"{k}={v} " not in recorded]
    names += [k for k, v in described["dish"].items() if f"{k!r}: {v!r}" not in recorded]
    return ", ".join(names) or "one that this search has not"


def noise_ceiling(task: str) -> dict[str, Any] | None:
    """Return the noise ceiling of this task in the shipped table of its preset, if it is there."""
    try:
        items = cell_table.read(tabular.shipped(f"rnn_cell_ptb_{_PRESET.value}"))
    except UserError:
        return None
    wanted = (RnnCellSpace(_VARIANT.value).name, task)
    same = [item for item in items if (item[0].space, item[0].task) == wanted]
    return cell_table.noise_ceiling(same) if same else None


def summarise(records: Records, ceiling: dict[str, Any] | None) -> dict[str, Any]:
    """Return summary.json: one row for every method."""
    equal = _WARM_START.value + _ITERATIONS.value * _EVALUATIONS.value
    histories = histories_of(records)
    summary: dict[str, Any] = {
        "unit": unit(),
        "runs": _SEEDS.value,
        "ground_truths": equal,
        "noise_ceiling": ceiling,
        "methods": {},
    }
    costs = sorted({p["ground_truths"] for ps in histories.values() for run in ps for p in run})
    for method in histories:
        of_method = [record for (name, _), record in records.items() if name == method]
        at = {
            f"{cost:g}": report.summary_at({method: histories[method]}, unit(), cost)[method]
            for cost in [*(c for c in costs if c < equal), float(equal)]
        }
        summary["methods"][method] = {
            "runs": len(of_method),
            "at_equal_ground_truths": at[f"{equal:g}"],
            "by_ground_truths": {
                cost: {part: row[part]["mean"] for part in row} for cost, row in at.items()
            },
            "spent": float(np.mean([record[-1]["cost"] for record in of_method])),
            "tau_by_iteration": runs.taus(of_method),
            "seconds_by_iteration": runs.mean_of(of_method, "seconds"),
            "nao_pairwise_accuracy": runs.mean_of(of_method, "nao_pairwise_accuracy"),
        }
    summary["failed"] = len(
        {
            (run, cell)
            for (_, run), record in records.items()
            for entry in record
            for cell, score in zip(entry["cells"], entry["scores"], strict=True)
            if score is None
        }
    )
    everything = [run[-1] for ps in histories.values() for run in ps]
    best = max(everything, key=lambda point: point["valid_score"])
    if not best["cell"]:
        raise UserError("every evaluation failed, so there is no best cell: see why in the ledger")
    summary["best_cell"] = {
        "cell": best["cell"],
        "variant": _VARIANT.value,
        "valid": float(in_unit(best["valid_score"], unit())),
        "test": float(in_unit(best["test_score"], unit())),
    }
    return summary


def histories_of(records: Records) -> dict[str, list[list[dict[str, Any]]]]:
    """Return the points of every run by method, as figure 3 wants them."""
    methods = dict.fromkeys(method for method, _ in records)
    return {
        method: [runs.points(record) for (name, _), record in records.items() if name == method]
        for method in methods
    }


def write(
    folder: RunFolder, records: Records, summary: dict[str, Any], comments: dict[str, Any]
) -> list[pathlib.Path]:
    """Write the run's files and return their paths; `comments` stand above history.csv."""
    runs.write_history(folder.path / "history.csv", records, comments)
    with_process = _RANK_WITH.value == "averaged"
    title = "Test result of the cell that is best on validation"
    title += "; dish averaged with a process" if with_process else ""
    ceiling = summary["noise_ceiling"] or {}
    written = [
        folder.path / "history.csv",
        folder.write_json("summary.json", summary),
        report.figure3(
            folder.path / "figure3.png", histories_of(records), unit(),
            warm_start=_WARM_START.value, title=title,
        ),
    ]  # fmt: skip
    for method in dict.fromkeys(method for method, _ in records):
        first = next(record for (name, _), record in records.items() if name == method)
        iterations = [
            {key: np.array(value, float) if isinstance(value, list) and key != "cells" else value
             for key, value in entry.items()} | {"tau": _number(entry["tau"])}
            for entry in first
        ]  # fmt: skip
        main = method == next(iter(records))[0]
        name = "scatter.png" if main else f"scatter_{method}.png"
        if any(entry["tau"] is not None for entry in first):
            path = folder.path / name
            added = " with a process" if with_process and method.startswith("dish_") else ""
            words = f"{report.METHODS[method][0]}{added}, run 1"
            written.append(
                report.scatter(
                    path, iterations, unit=unit(), ceiling=ceiling.get("noise_ceiling"), title=words
                )
            )
    best = summary["best_cell"]
    written.append(
        drawing.draw_cell(
            folder.path / "best_cell.png",
            RnnCellSpace(_VARIANT.value).decode(best["cell"]),
            _VARIANT.value,
            title=f"test {best['test']:.3f} {unit()}",
        )
    )
    return written


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def main(argv: Sequence[str]) -> None:
    """Search, or replay."""
    del argv
    methods, described = methods_and_settings()
    check_sizes()
    default = "runs/rnn_cell_search" + ("" if _DATA_DIR.value else "_replay")
    asked = described | {"seeds": _SEEDS.value, "iterations": _ITERATIONS.value}
    grow = ("seeds", "iterations")
    workdir = run_folder.WORKDIR.value or default
    with contextlib.ExitStack() as stack:
        if _DATA_DIR.value is None:
            records, fingerprint = replay(described)
            asked |= {"mode": "replay"}
            folder = RunFolder.open(workdir, asked, may_grow=grow)
        else:
            data_dir = None if _DATA_DIR.value == "download" else _DATA_DIR.value
            language_model = LANGUAGE_MODELS[_PRESET.value]
            checkpoints = str(pathlib.Path(workdir) / "states")
            task = LanguageModelTask(_VARIANT.value, language_model, data_dir, checkpoints)
            task.check_text()
            fingerprint = task.fingerprint
            asked |= {"mode": "search", "task": fingerprint}
            folder = RunFolder.open(workdir, asked, may_grow=grow)
            ledger = stack.enter_context(Ledger(folder.path / "ledger.sqlite"))
            ground_truth = GroundTruth(methods.space.name, task, ledger, _WORKERS.value)
            records = search_all(folder, methods, ground_truth)
        summary = summarise(records, noise_ceiling(fingerprint))
        summary["motif_network"] = {
            "parameters": num_parameters(methods.dish.family),
            "parameters_in_the_paper": 140,  # of a cell without gates
        }
        comments = {
            "command": "python -m experiments.rnn_cell_search --data_dir=...",
            "commit": run_folder.commit(),
            "task": fingerprint,
            "settings": settings_text(described),
        }
        written = write(folder, records, summary, comments)
    print(results(summary))
    print("wrote " + ", ".join(map(str, written)))


if __name__ == "__main__":
    run_folder.run_main(main)
