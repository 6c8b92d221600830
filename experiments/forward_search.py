"""Forward architecture search (Hu et al., 2019): grow trained networks, beside controls.

The authors call it Petridish; it has nothing to do with the Synthetic Petri Dish. Without flags
it grows networks of scikit-learn's digits, which takes minutes and downloads nothing.
"""

import dataclasses

from experiments import launch
from spd_jax.errors import UserError
from spd_jax.report import forward_search as report
from spd_jax.report.display import Display
from spd_jax.studies import forward_cost, forward_final, forward_search
from spd_jax.studies.forward_controls import ALL, available
from spd_jax.studies.forward_settings import PRESETS, ForwardSettings
from spd_jax.studies.settings import setting


@dataclasses.dataclass(frozen=True)
class ForwardSearch(ForwardSettings, launch.Evaluations):
    """Settings of the experiment, with where its data are and what stands beside it."""

    data_dir: str = setting("download", 'folder of the data, or "download"', free=True)
    controls: bool = setting(
        False,
        "train all controls and ablations that the search has, and compare selectors (hours)",
        free=True,
    )
    beside: tuple[str, ...] = setting(
        ("longer",), "what stands beside the search", choices=tuple(ALL), free=True
    )
    one_step: bool = setting(
        False, "only take one step of each phase at full size, and say what all would cost",
        free=True,
    )  # fmt: skip
    final_arch: str = setting(
        "", "only train the architecture of this file (best_arch.json of a search), from scratch, "
        "with `normal` and `filters` as given", free=True,
    )  # fmt: skip
    final_epochs: int = setting(600, "epochs of that training", at_least=1, free=True)
    all_images: bool = setting(
        False, "that training takes the images of the validation, too", free=True
    )


launch.define(ForwardSearch, PRESETS)


def main() -> None:
    """Search, train the controls, and draw."""
    settings = launch.read(ForwardSearch, PRESETS, "preset")
    if settings.one_step:
        print(report.phases(forward_cost.measure(settings)))
        return
    if settings.all_images and not settings.final_arch:
        raise UserError("--all_images is for a final training: give --final_arch, too")
    if settings.final_arch:
        train_finally(settings)
        return
    workdir = launch.workdir(f"runs/forward_search_{settings.preset}")
    with Display() as display:
        summary = forward_search.run(
            settings,
            workdir,
            data_dir=launch.folder_of_data(settings.data_dir),
            beside=available(settings.search) if settings.controls else settings.beside,
            workers=settings.trained_by,
            time_limit=settings.time_limit,
            listen=display,
        )
    print(report.results(summary))
    print("wrote " + ", ".join(map(str, [workdir / "summary.json", *report.draw(workdir)])))


def train_finally(settings: ForwardSearch) -> None:
    """Train an architecture that a search has found."""
    arch = forward_final.read_arch(settings.final_arch, settings.normal)
    with Display() as display:
        summary = forward_final.run(
            settings,
            launch.workdir(f"runs/forward_final_{settings.preset}"),
            arch,
            epochs=settings.final_epochs,
            data_dir=launch.folder_of_data(settings.data_dir),
            workers=settings.trained_by,
            all_images=settings.all_images,
            listen=display,
        )
    print(report.final(summary))


if __name__ == "__main__":
    launch.run_main(main)
