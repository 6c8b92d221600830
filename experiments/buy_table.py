"""Buy a table of ground truths (section 4.2), after its noise has been measured."""

import dataclasses

from experiments import launch
from spd_jax import problems
from spd_jax.report.display import Display
from spd_jax.report.tables import table_summary
from spd_jax.studies import table_purchase
from spd_jax.studies.settings import setting
from spd_jax.studies.table_purchase import TableSettings


@dataclasses.dataclass(frozen=True)
class BuyTable(TableSettings, launch.Evaluations):
    """Settings of the table, with where its data come from."""

    problem: str = setting("rnn_cell", "whose cells are bought", free=True)
    data_dir: str = setting("download", 'folder of the data, or "download"', free=True)
    compare_with: str | None = setting(None, "another table, to compare the order with", free=True)


launch.define(BuyTable)


def main() -> None:
    """Buy the table."""
    settings = launch.read(BuyTable)
    problem = problems.get(settings.problem)
    part = "" if settings.part == "reported" else f"_{settings.part}"
    with Display() as display:
        summary, path = table_purchase.run(
            problem,
            settings,
            launch.workdir(f"runs/{problem.space.name}_{settings.preset}{part}"),
            data_dir=launch.folder_of_data(settings.data_dir),
            workers=settings.trained_by,
            time_limit=settings.time_limit,
            compare_with=settings.compare_with,
            listen=display,
        )
    print(table_summary(summary))
    print(f"wrote {path}, {path.with_name('summary.json')}")


if __name__ == "__main__":
    launch.run_main(main)
