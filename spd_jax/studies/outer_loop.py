"""The outer loop of a dish of classifiers, step by step, with what Cassimon et al. plot of it.

`dish.fit` learns; this also watches: at every outer step the inner curves of the cells that are
being fitted, and now and then the ranking of cells that the dish never learns from.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax import archs as batches
from spd_jax import dish, files, metrics
from spd_jax.axes import Archs
from spd_jax.dish import DishConfig, DishState, KnownMotifs
from spd_jax.dish.fitting import NOT_FINITE
from spd_jax.errors import UserError
from spd_jax.motif import MotifFamily
from spd_jax.studies import machine
from spd_jax.studies.run_folder import RunFolder

ANCHORS = 40  # most known cells that give a dish its sign, mean and spread
SAVE_EVERY = 5  # outer steps between two saved states
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class OuterLoop:
    """A dish and the cells that it learns from.

    Attributes:
      family: the motif-network.
      config: settings; `motif_batch` cells are taken at each outer step.
      archs: known cells `[M]`.
      targets: what the outer loss compares scores with, `[M]`, finite, higher is better.
      truth: ground truths `[M]`, with which tau is computed.
      seed: of the dish, and of the order in which cells are used again.
    """

    family: MotifFamily
    config: DishConfig
    archs: Archs
    targets: np.ndarray
    truth: np.ndarray
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Inner steps in which every training sample is used once."""
        size = self.config.inner_batch_size
        return self.config.train_samples // size if size else 1

    @property
    def epochs(self) -> float:
        """Inner epochs of a training."""
        return self.config.inner_steps / self.steps_per_epoch

    def chosen(self, step: int) -> np.ndarray:
        """Return the places of the cells that an outer step learns from.

        Each step takes the next `motif_batch` cells, none of which was seen before while there
        are such cells; after that they are put into another order and taken again.
        """
        count = len(self.targets)
        size = min(self.config.motif_batch, count)
        turn, place = divmod(step, count // size)
        order = np.arange(count)
        if turn:
            order = np.random.default_rng([self.seed, turn]).permutation(count)
        return np.sort(order[place * size : (place + 1) * size])

    def start(self) -> DishState:
        """Return the dish before its first step."""
        return dish.init(jax.random.key(self.seed), self.family, self.config)

    def step(self, state: DishState) -> tuple[DishState, Record]:
        """Take one outer step; return the next state and what was seen before the step.

        The record, JSON-ready, holds `step`, outer `loss` (mean over members), `tau` of the
        fitted cells' accuracies after the inner training and their truths, None where all
        accuracies or all truths are equal (Cassimon et al., section 5.2); `tau_scores`, of their
        scores; `perfect`, whether every accuracy is 1; `max_accuracy`, the highest of each cell's
        inner training; `seconds` of the step without compiling; and, for the first, the middle
        and the last step, `curves`.

        Raises:
          UserError: no cell's inner training is finite.
        """
        number = int(state.step)
        chosen, sharding = self.chosen(number), machine.motif_sharding()
        # Ranks, where the settings ask for them, are those among all known cells.
        everything = KnownMotifs(self.archs, np.asarray(self.targets, np.float32))
        everything = everything.targets(self.config)
        known = KnownMotifs(batches.take(self.archs, chosen), everything.truth[chosen])
        archs, targets, weights = known.batches(self.config, sharding)(state)
        seconds = {"compile": 0.0}
        with machine.timed(seconds, "step"):
            after, info = dish.outer_step(
                state, self.family, self.config, archs, targets, weights=weights
            )
            jax.block_until_ready(after.data)
        if np.any(np.asarray(info.masked) >= len(chosen)):
            raise UserError(NOT_FINITE)
        found = dish.inner_curves(
            state, self.family, self.config, known.archs,
            every=min(self.steps_per_epoch, self.config.inner_steps), sharding=sharding,
        )  # fmt: skip
        accuracy = np.asarray(found.accuracy)  # [E, M, T']
        truth, last = self.truth[chosen], accuracy[..., -1]
        record = {
            "step": number,
            "loss": float(np.mean(info.loss)),
            "tau": _tau(last, truth) if np.ptp(last, axis=1).any() else None,
            "tau_scores": _tau(np.asarray(info.scores)[:, : len(chosen)], truth),
            "perfect": bool(np.all(last == 1)),
            "max_accuracy": accuracy.max(axis=-1).mean(axis=0),
            "seconds": seconds["step"],
        }
        if number in (0, self.config.outer_steps // 2, self.config.outer_steps - 1):
            record["curves"] = {
                "epochs": np.asarray(found.steps) / self.steps_per_epoch,
                "loss": np.asarray(found.train_loss).mean(axis=0),
                "accuracy": accuracy.mean(axis=0),
            }
        return after, files.to_json(record)

    def settled(self, state: DishState) -> DishState:
        """Return the state with sign, mean and spread over (at most `ANCHORS`) known cells."""
        done = dataclasses.replace(state, step=jnp.asarray(self.config.outer_steps, jnp.int32))
        archs, truth = batches.take(self.archs, slice(ANCHORS)), self.targets[:ANCHORS]
        settled, _ = dish.fit(
            done, self.family, self.config, archs, truth, sharding=machine.motif_sharding()
        )
        return dataclasses.replace(settled, step=state.step)

    def predict(self, state: DishState, archs: Archs) -> np.ndarray:
        """Return the scores of cells `[M]` in standard deviations over the known ones.

        A cell whose inner training is not finite gets minus infinity.
        """
        return dish.predict(
            self.settled(state), self.family, self.config, archs, sharding=machine.motif_sharding()
        )


def _tau(members: np.ndarray, truth: np.ndarray) -> float:
    """Return tau of the median over members `[E, M]` of z-scores; NaN where truths are equal."""
    members = np.where(np.isfinite(members), members, np.nan).astype(float)
    spread = np.nanstd(members, axis=1, keepdims=True)
    z = (members - np.nanmean(members, axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    return metrics.kendall_tau(np.median(np.where(np.isnan(z), -np.inf, z), axis=0), truth)


def run(
    folder: RunFolder,
    name: str,
    loop: OuterLoop,
    *,
    look_every: int,
    look: Callable[[DishState], Mapping[str, Any]],
    on_step: Callable[[int, Mapping[str, Any]], None] = lambda done, record: None,
) -> tuple[DishState, list[Record]]:
    """Take all outer steps of a loop, or those that an earlier run did not take.

    Args:
      folder: keeps the state and the records, as `states/<name>.npz` and
        `records/<name>.json`, now and then.
      name: of the loop in the folder.
      loop: what learns.
      look_every: outer steps between two looks; the start and the end are looked at, too.
      look: returns what is to be recorded of a state, JSON-ready.
      on_step: told how many steps were taken, and the latest record.

    Returns:
      The last state, and a record for each step and one, with `step` and what `look` returned,
      for the end. Equal to those of an uninterrupted run but for the seconds.
    """
    state, records = _found(folder, name, loop)
    last = loop.config.outer_steps
    for step in range(len(records), last + 1):
        seen = dict(look(state)) if step % look_every == 0 or step == last else {}
        record: Record = {"step": step}
        if step < last:
            state, record = loop.step(state)
        records.append(record | seen)
        if step == last or (step + 1) % SAVE_EVERY == 0:
            folder.keep_json(f"records/{name}.json", {"records": records})
            files.save_pytree(folder.path / "states" / f"{name}.npz", state)
        on_step(min(step + 1, last), records[-1])
    return state, records


def _found(folder: RunFolder, name: str, loop: OuterLoop) -> tuple[DishState, list[Record]]:
    """Return where an earlier run was; the start where its files do not fit together."""
    start = loop.start()
    path = folder.path / "states" / f"{name}.npz"
    found = folder.read_json(f"records/{name}.json", lambda content: list(content["records"]))
    if found is None or not path.exists():
        return start, []
    try:
        state: DishState = files.load_pytree(path, start)
    except UserError:
        return start, []
    # The records are written first: they may be ahead of the state, never behind it.
    finished = int(state.step) == loop.config.outer_steps < len(found)
    records = found if finished else found[: int(state.step)]
    return (state, records) if len(records) >= int(state.step) else (start, [])


def figures(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the paper reports of an outer loop, JSON-ready; None where nothing tells.

    `tau` is the mean over outer steps with 0 for those in which all cells are equally accurate,
    `tau_without_undefined` the mean over the others, `undefined_share` and `perfect_share` are
    shares of the steps; `max_accuracy_first` and `_last` are means over cells and the first and
    last five steps.
    """
    steps = [record for record in records if "loss" in record]
    if not steps:
        return {}
    tau = np.array([np.nan if own["tau"] is None else own["tau"] for own in steps])
    scores = np.array([np.nan if own["tau_scores"] is None else own["tau_scores"] for own in steps])
    undefined = np.isnan(tau)
    best = [np.mean(own["max_accuracy"]) for own in steps]
    found: dict[str, Any] = files.to_json(
        {
            "tau": np.where(undefined, 0, tau).mean(),
            "tau_without_undefined": np.nan if undefined.all() else np.nanmean(tau),
            "tau_scores": np.nan if np.isnan(scores).all() else np.nanmean(scores),
            "undefined_share": undefined.mean(),
            "perfect_share": np.mean([own["perfect"] for own in steps]),
            "max_accuracy_first": np.mean(best[:5]),
            "max_accuracy_last": np.mean(best[-5:]),
        }
    )
    return found
