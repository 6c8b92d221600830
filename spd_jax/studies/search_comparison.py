"""One search of experiments.rnn_cell_search: its method, its saved fits, its record."""

import csv
import dataclasses
import functools
import hashlib
import io
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from spd_jax import files, metrics
from spd_jax.axes import Archs, Key
from spd_jax.dish import DishState, OuterInfo
from spd_jax.errors import UserError
from spd_jax.ground_truth.purchase import GroundTruth
from spd_jax.ledger import Evaluation
from spd_jax.report.progress import Progress
from spd_jax.report.search_table import SearchTable
from spd_jax.search.genetic import Genetic
from spd_jax.search.loop import Iteration, SearchConfig, search
from spd_jax.search.nao import NaoProposer
from spd_jax.search.protocol import Proposer
from spd_jax.search.random_search import RandomSearch
from spd_jax.spaces.rnn_cell import RnnCellSpace
from spd_jax.studies.run_folder import RunFolder
from spd_jax.surrogates.averaged import Averaged
from spd_jax.surrogates.dish_surrogate import DishSurrogate, FittedDish
from spd_jax.surrogates.nao import FittedNao, NaoConfig
from spd_jax.surrogates.partial_training import PartialTraining, of_ground_truth
from spd_jax.surrogates.protocol import Surrogate
from spd_jax.surrogates.regressors import GaussianProcess

METHODS = ("dish_nao", "dish_ga", "dish_random", "nao", "ga", "random", "partial")
COLUMNS = (
    "method", "run", "iteration", "cell", "predicted", "valid_nll", "test_nll",
    "tau", "cost", "seconds", "nao_pairwise_accuracy",
)  # fmt: skip

Record = list[dict[str, Any]]  # one mapping of plain data for each iteration of a search


@dataclasses.dataclass(frozen=True)
class Methods:
    """What the methods of a comparison are made of.

    Attributes:
      space: of the cells.
      dish: ranks the proposals of the three dish methods.
      genetic: proposer of ga and dish_ga.
      nao: settings of the network of nao and dish_nao.
      partial_epochs: epochs after which method partial ranks its random proposals.
      averaged: whether dish methods rank by the dish's mean with a Gaussian process instead.
    """

    space: RnnCellSpace
    dish: DishSurrogate
    genetic: Genetic
    nao: NaoConfig
    partial_epochs: int
    averaged: bool = False

    def proposer(self, method: str, on_fit: Callable[[FittedNao], None]) -> Proposer:
        """Return who proposes cells under a method."""
        if method.endswith("nao"):
            return NaoProposer(self.nao, on_fit=on_fit)
        return self.genetic if method.endswith("ga") else RandomSearch()

    def surrogate(self, method: str, ground_truth: GroundTruth) -> Surrogate | None:
        """Return who ranks them; `None` where every proposal is evaluated."""
        if method.startswith("dish_"):
            if not self.averaged:
                return self.dish
            return Averaged(self.dish, GaussianProcess(self.space.structure))
        if method == "partial":
            lookup = of_ground_truth(ground_truth, self.space.canonical_text)
            return PartialTraining(lookup, self.partial_epochs, ground_truth.task.budget)
        return None


@dataclasses.dataclass(frozen=True)
class SavedFits:
    """Keeps every dish of a search in the run folder, during its fit and after it."""

    folder: RunFolder
    name: str

    def __call__(
        self, index: int, surrogate: Surrogate, key: Key, archs: Archs, scores: np.ndarray
    ) -> Any:
        """Fit, or go on with a fit that was killed, or load one that was finished."""
        if isinstance(surrogate, Averaged):
            inner = functools.partial(self, index, surrogate.dish)
            return surrogate.fit(key, archs, scores, fit_dish=inner)
        if not isinstance(surrogate, DishSurrogate):
            return surrogate.fit(key, archs, scores)
        known = hashlib.sha256(np.asarray(scores).tobytes())
        for leaf in jax.tree.leaves(archs):
            known.update(np.ascontiguousarray(leaf).tobytes())
        fingerprint = known.hexdigest()[:16]  # in the name: a cell that is bought anew refits
        path = self.folder.path / "states" / f"{self.name}_{index}_{fingerprint[:8]}.npz"
        going = path.with_name(f"{path.stem}_unfinished.npz")
        start = surrogate.start(key)
        if path.exists():
            return FittedDish(surrogate, files.load_pytree(path, start, fingerprint), None)
        state = files.load_pytree(going, start, fingerprint) if going.exists() else None
        with Progress(
            f"dish of {self.name}, iteration {index}", surrogate.config.outer_steps
        ) as bar:

            def on_step(state: DishState, info: OuterInfo) -> None:
                files.save_pytree(going, state, fingerprint)
                bar.update(int(state.step), f"outer loss {float(np.mean(info.loss)):.3f}")

            fitted = surrogate.fit(key, archs, scores, state=state, on_step=on_step)
        files.save_pytree(path, fitted.state, fingerprint)
        going.unlink(missing_ok=True)
        return fitted


def finished(folder: RunFolder, method: str, run: int, config: SearchConfig) -> Record | None:
    """Return the record of a search that the folder holds whole, or None."""
    saved = folder.read_json(f"searches/{method}_{run}.json")
    return saved if saved is not None and len(saved) == config.iterations + 1 else None


def run_search(
    folder: RunFolder,
    methods: Methods,
    ground_truth: GroundTruth,
    config: SearchConfig,
    *,
    method: str,
    run: int,
    on_iteration: Callable[[Iteration], Any],
) -> Record:
    """Return the record of one search; what is known of it is read from folder and ledger."""
    name = f"{method}_{run}"
    saved = folder.read_json(f"searches/{name}.json")
    accuracies: list[float] = []
    seconds = {entry["index"]: entry["seconds"] for entry in saved or []}
    record: Record = []

    def keep(iteration: Iteration) -> None:
        entry = {k: plain(v) for k, v in iteration._asdict().items()}
        # A replay after a kill finds its fits on disk: the first time is the honest one.
        entry["seconds"] = seconds.get(iteration.index, entry["seconds"])
        entry["nao_pairwise_accuracy"] = plain(accuracies[-1]) if accuracies else None
        record.append(entry)
        if len(record) > len(saved or []):
            folder.write_json(f"searches/{name}.json", record)
        on_iteration(iteration)

    search(
        jax.random.key(run),
        methods.space,
        ground_truth,
        methods.proposer(method, lambda fitted: accuracies.append(fitted.pairwise_accuracy)),
        surrogate=methods.surrogate(method, ground_truth),
        config=config,
        fit=SavedFits(folder, name),
        on_iteration=keep,
    )
    return record


class Shower:
    """Keeps the live table up to date while cells are bought and iterations end."""

    def __init__(self, table: SearchTable, ground_truth: GroundTruth) -> None:
        """Begin at nothing, and listen to what is bought."""
        self.table, self.index, self.spent, self.best = table, 0, 0.0, math.nan
        self.budget = ground_truth.task.budget
        table.update(0, 0.0, best=math.nan)
        ground_truth.on_result = self.result

    def result(self, done: int, total: int, evaluation: Evaluation) -> None:
        """Take note of a cell that was bought."""
        del total
        whole = evaluation.status == "failed" or len(evaluation.curve) >= self.budget
        if evaluation.status == "ok" and whole:
            self.best = float(np.fmax(self.best, evaluation.score))
        share = 1.0 if whole else len(evaluation.curve) / self.budget
        self.table.update(self.index, self.spent + share * done, best=self.best)

    def iteration(self, iteration: Iteration) -> None:
        """Take note of an iteration that is finished."""
        finite = iteration.scores[np.isfinite(iteration.scores)]
        self.best = float(np.fmax.reduce([self.best, *finite]))
        self.table.update(
            iteration.index, iteration.cost, best=self.best, tau=iteration.tau, finished=True
        )
        self.index, self.spent = iteration.index + 1, iteration.cost


def plain(value: Any) -> Any:
    """Return NumPy values as JSON-ready ones: not finite is None."""
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def points(record: Record) -> list[dict[str, Any]]:
    """Return, after each iteration, what had been spent and the cell best on validation."""
    best: tuple[float, float | None, str] = (-math.inf, None, "")
    result = []
    for entry in record:
        for cell, score, test in zip(
            entry["cells"], entry["scores"], entry["test_scores"], strict=True
        ):
            if score is not None and score > best[0]:
                best = (score, test, cell)
        result.append(
            {
                "ground_truths": entry["cost"],
                "valid_score": best[0],
                "test_score": best[1],
                "cell": best[2],
            }
        )
    return result


def write_history(
    path: pathlib.Path, records: dict[tuple[str, int], Record], comments: dict[str, Any]
) -> None:
    """Write every evaluated cell of every search as CSV; `read_history` reads it back."""
    text = io.StringIO()
    text.writelines(f"# {name}: {value}\n" for name, value in comments.items())
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for (method, run), record in records.items():
        for entry in record:
            rows = zip(
                entry["cells"], entry["predicted"], entry["scores"], entry["test_scores"],
                strict=True,
            )  # fmt: skip
            for cell, predicted, score, test in rows:
                writer.writerow(
                    {
                        "method": method,
                        "run": run,
                        "iteration": entry["index"],
                        "cell": cell,
                        "predicted": _text(predicted),
                        "valid_nll": _text(score, -1),
                        "test_nll": _text(test, -1),
                        "tau": _text(entry["tau"]),
                        "cost": _text(entry["cost"]),
                        "seconds": _text(entry["seconds"]),
                        "nao_pairwise_accuracy": _text(entry["nao_pairwise_accuracy"]),
                    }
                )
    files.write_text(path, text.getvalue())


def read_history(path: pathlib.Path) -> tuple[dict[tuple[str, int], Record], dict[str, str]]:
    """Return the records of a history, and its comments.

    Raises:
      UserError: the file is missing or is no such history.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a history.csv") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text: give a history.csv") from error
    comments = {
        name.strip(): value.strip()
        for name, _, value in (line[1:].partition(":") for line in lines if line.startswith("#"))
    }
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    if not rows or set(rows[0]) != set(COLUMNS):
        raise UserError(f"{path} is no history of searches: give one that rnn_cell_search wrote")
    records: dict[tuple[str, int], Record] = {}
    for number, row in enumerate(rows, 1):
        try:
            _add_row(records, row)
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path} is damaged in row {number} ({error}): give it as rnn_cell_search wrote it"
            ) from error
    return records, comments


def _add_row(records: dict[tuple[str, int], Record], row: dict[str, str]) -> None:
    """Add one cell to its iteration, or begin the next one with it."""
    if None in row or None in row.values():
        raise ValueError(f"it has not {len(COLUMNS)} values")
    record = records.setdefault((row["method"], int(row["run"])), [])
    index = int(row["iteration"])
    if index == len(record):
        numbers = ("tau", "cost", "seconds", "nao_pairwise_accuracy")
        record.append(
            {"index": index, "cells": [], "predicted": [], "scores": [], "test_scores": []}
            | {name: _number(row[name]) for name in numbers}
        )
    elif index != len(record) - 1:
        raise ValueError(f"iteration {index} follows iteration {len(record) - 1}")
    entry = record[-1]
    entry["cells"].append(row["cell"])
    entry["predicted"].append(_number(row["predicted"]))
    entry["scores"].append(_number(row["valid_nll"], -1))
    entry["test_scores"].append(_number(row["test_nll"], -1))


def _text(value: float | None, sign: int = 1) -> str:
    return "" if value is None else repr(sign * float(value))


def _number(text: str, sign: int = 1) -> float | None:
    return sign * float(text) if text else None


def taus(records: Iterable[Record]) -> dict[str, Any]:
    """Return the tau of predicted and true scores by iteration, and how they spread."""
    by_iteration: dict[str, list[float]] = {}
    for record in records:
        for entry in record:
            if entry["tau"] is not None:
                by_iteration.setdefault(str(entry["index"]), []).append(entry["tau"])
    return {index: metrics.spread(values) for index, values in by_iteration.items()}


def mean_of(records: Sequence[Record], name: str) -> float | None:
    """Return the mean of a figure over all iterations that have it."""
    values = [entry[name] for record in records for entry in record if entry[name] is not None]
    return float(np.mean(values)) if values else None
