"""Forward architecture search (Hu et al., 2019) beside what it must be better than.

For every seed a search grows its networks; controls spend as much, counted in training images
times multiply-adds. All of them begin with the same trained seed, so that they are paired.
The method is unrelated to the Synthetic Petri Dish, whatever its authors call it.
"""

import os
from collections.abc import Sequence
from typing import Any

from spd_jax.errors import UserError, check_name
from spd_jax.forward_search import jobs, search
from spd_jax.forward_search.buying import Buyer
from spd_jax.ground_truth import executors
from spd_jax.ledger import Ledger
from spd_jax.studies import events, forward_settings
from spd_jax.studies import settings as settings_lib
from spd_jax.studies.forward_controls import ALL, GROWN, SELECTION, available
from spd_jax.studies.forward_runner import Runner
from spd_jax.studies.forward_settings import ForwardSettings, problem_of
from spd_jax.studies.forward_summary import summarise, write_models
from spd_jax.studies.run_folder import RunFolder, open_folder


def run(
    settings: ForwardSettings,
    workdir: str | os.PathLike[str],
    *,
    data_dir: str | None = None,
    beside: Sequence[str] = ("longer",),
    workers: executors.Workers = 0,
    time_limit: float | None = None,
    listen: events.Listener = events.ignore,
) -> dict[str, Any]:
    """Search with every seed, train the controls, and write the run's files.

    Args:
      settings: of the run.
      workdir: the run folder; an earlier run of the same settings goes on.
      data_dir: folder of the data; None downloads them, or takes what is built in.
      beside: what stands beside the search: names in `forward_controls.ALL`.
      workers: processes that train; 0 trains in this one; or a scheduler's address, see
        `forward_search.buying.Buyer`. It changes no result.
      time_limit: seconds that a job may take; needs workers.
      listen: told what happens.

    Returns:
      What summary.json holds.

    Raises:
      UserError: settings with which nothing can be run, missing data, or a seed that fails.
    """
    forward_settings.check(settings)
    for name in beside:
        check_name("control", name, ALL)
        if name not in available(settings.search):
            raise UserError(f"beside={name} is for image networks: leave it out")
    problem = problem_of(settings, data_dir)
    config = {"study": "forward_search", **settings_lib.described(settings)}
    config["data"] = problem.identity()
    with (
        open_folder(workdir, config, settings_lib.growing(settings)) as folder,
        Ledger(folder.path / "ledger.sqlite") as ledger,
    ):
        runner = Runner(
            settings, folder, problem, Buyer(ledger, workers, time_limit), data_dir, listen
        )
        outcomes = runner.run(beside)
        summary = summarise(settings, outcomes, runner.searches)
        if SELECTION in beside:
            summary["selection"] = runner.agreement()
        write_models(folder.path / "models.csv", settings, outcomes)
        keep_best(folder, runner, summary)
        folder.write_json("summary.json", summary)
    return summary


def keep_best(folder: RunFolder, runner: Runner, summary: dict[str, Any]) -> None:
    """Write the best grown network of all seeds, by validation error: best.npz, best_arch.json.

    `forward_search.jobs.load` reads the former, `forward_search.arch.from_json` the latter.
    """
    found = [
        (model.error, model.cross_entropy, own.seed, model, own)
        for own in runner.searches
        if own.method == GROWN and (model := search.best(own.state.models))
    ]
    if not found:
        return
    *_, model, own = min(found, key=lambda item: item[:3])
    path = own.training.path(model.name)
    runner.buyer.restore([path])
    loaded = jobs.load(path)
    jobs.save(folder.path / "best.npz", *loaded)
    folder.write_json("best_arch.json", model.arch.to_json())
    summary["best"] = {
        "seed": own.seed, "arch": str(model.arch), "error": model.error,
        "test_error": model.test_error, "multiply_adds": model.multiply_adds,
        "parameters": model.parameters,
    }  # fmt: skip
