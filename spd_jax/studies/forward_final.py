"""The final training: an architecture that a search found, larger, from scratch, once per seed."""

import dataclasses
import json
import os
import pathlib
from typing import Any

from spd_jax import metrics
from spd_jax.errors import UserError
from spd_jax.forward_search import arch as arch_lib
from spd_jax.forward_search import jobs
from spd_jax.forward_search.arch import Arch
from spd_jax.forward_search.buying import Buyer, Item
from spd_jax.forward_search.jobs import Job
from spd_jax.ground_truth import executors
from spd_jax.ledger import Evaluation, Ledger
from spd_jax.studies import events, forward_settings
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.forward_controls import SCRATCH
from spd_jax.studies.forward_settings import ForwardSettings, problem_of, training_of
from spd_jax.studies.run_folder import open_folder

NUMBER = SCRATCH + 1000  # of the job: no control's


def read_arch(path: str | os.PathLike[str], normal: int) -> Arch:
    """Return the architecture of a file, with N normal cells at each size.

    Args:
      path: such as the best_arch.json of a search.
      normal: N; not used where the cell is recurrent.

    Raises:
      UserError: no such file, no architecture in it, or one that cannot be scaled to N.
    """
    try:
        data = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): give the best_arch.json of a search"
        ) from error
    arch = arch_lib.from_json(data)
    return arch if arch.search == "rnn" else arch_lib.scaled(arch, normal)


def run(
    settings: ForwardSettings,
    workdir: str | os.PathLike[str],
    arch: Arch,
    *,
    epochs: int,
    data_dir: str | None = None,
    workers: executors.Workers = 0,
    all_images: bool = False,
    listen: events.Listener = events.ignore,
) -> dict[str, Any]:
    """Train an architecture from scratch with every seed, and evaluate it on test data.

    A seed that was trained is in the ledger and is not trained again; a training that is
    killed begins anew. What counts of the settings are its widths, data, regularisation and
    rates.

    Args:
      settings: of the networks and the training; `search` must be the architecture's.
      workdir: the run folder.
      arch: as large as it shall be trained.
      epochs: of the training.
      data_dir: as in `forward_search.run`.
      workers: likewise.
      all_images: whether the images of the validation are trained on, too, as the paper does
        (section 5.1); there is no validation error then.
      listen: told what happens.

    Returns:
      What summary.json holds: figures over seeds of error (on validation data), test_error,
      multiply_adds, parameters.

    Raises:
      UserError: as `forward_search.run`, or no training that ends.
    """
    forward_settings.check(settings)
    problem = _problem(settings, arch, data_dir, all_images)
    config = {"study": "forward_final", "arch": str(arch), "epochs": epochs}
    config |= settings_lib.described(settings) | {"data": problem.identity()}
    grows = settings_lib.growing(settings)
    with (
        open_folder(workdir, config, grows) as folder,
        Ledger(folder.path / "ledger.sqlite") as ledger,
    ):
        states = str(folder.path / "states")
        seeds = range(settings.seed, settings.seed + settings.num_seeds)
        job = Job(NUMBER, "scratch", arch, epochs)
        items: list[Item] = [(training_of(settings, problem, states, seed), job) for seed in seeds]
        results = _trained(Buyer(ledger, workers), items, listen)
        summary = _summary(arch, epochs, seeds, results)
        if all_images:
            del summary["error"]
        for (own, _), result in zip(items, results, strict=True):
            if result.status == "ok":
                jobs.save(folder.path / f"final_seed{own.seed}.npz", *jobs.load(own.path(job.name)))
        folder.write_json("summary.json", summary)
    return summary


def _problem(settings: ForwardSettings, arch: Arch, data_dir: str | None, all_images: bool) -> Any:
    """Return networks and data; raises UserError where they do not fit the architecture."""
    if (settings.search == "rnn") != (arch.search == "rnn"):
        raise UserError(f"the architecture is of search={arch.search}: use such a preset")
    if not all_images:
        return problem_of(settings, data_dir)
    if arch.search == "rnn":
        raise UserError("all_images is for image networks: leave it out")
    problem = problem_of(settings, data_dir)
    return dataclasses.replace(problem, parts=dataclasses.replace(problem.parts, joined=True))


def _trained(buyer: Buyer, items: list[Item], listen: events.Listener) -> list[Evaluation]:
    """Return the results of the trainings, each told as soon as it is there."""
    listen(events.Stage("final trainings", len(items), note="compiling"))
    done: list[Evaluation] = []

    def told(item: Item, result: Evaluation) -> None:
        done.append(result)
        listen(events.Advanced(len(done), f"seed {item[0].seed}: {result.status}"))

    buyer.on_result = told
    return buyer.buy(items)


def _summary(arch: Arch, epochs: int, seeds: Any, results: list[Evaluation]) -> dict[str, Any]:
    """Return the figures over seeds; raises UserError where none ended."""
    ended = [result.info for result in results if result.status == "ok"]
    if not ended:
        why = results[0].error.strip().splitlines()[-1]
        raise UserError(f"no training ended ({why}): use a smaller learning_rate")
    names = ("error", "test_error", "train_loss", "multiply_adds", "parameters")
    figures = {name: metrics.spread_with_mean([info[name] for info in ended]) for name in names}
    seconds = metrics.spread_with_mean([result.seconds for result in results])
    return {
        "arch": str(arch), "epochs": epochs, "seeds": list(seeds),
        "failed": len(results) - len(ended), **figures, "seconds": seconds,
    }  # fmt: skip
