"""Recurrent cells, evaluated by language models (Rawal et al., section 4.2)."""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from spd_jax.axes import Arch
from spd_jax.dish import DishConfig
from spd_jax.problems.problem import GroundTruthPreset, Problem
from spd_jax.spaces.rnn_cell import RnnCell, RnnCellSpace, network
from spd_jax.surrogates import proxies
from spd_jax.trainers.language_model import PRESETS as LANGUAGE_MODELS
from spd_jax.trainers.language_model import LanguageModelTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIANT = "enas_mean"  # the default: it separates cells best

DISH_PRESETS = {
    # Chosen on the tuning cells alone (experiments.tune): four dishes and eight steps had the
    # smallest held-out loss; two and six are what 45 fits of a comparison could afford.
    "best": DishConfig(
        inner_steps=50,
        outer_steps=6,
        ensemble_size=2,
        train_samples=20,
        valid_samples=20,
        inner_l2=1e-5,
        outer_learning_rate=0.05,
        outer_l2=5e-5,
        schedule="constant",
        init_scale=0.4,
    ),
    # Rawal et al., appendix A.3.2, table 4; it does not say when the outer rate decays.
    "paper": DishConfig(
        inner_steps=50,
        outer_steps=200,
        train_samples=20,
        valid_samples=20,
        inner_l2=1e-5,
        outer_learning_rate=2.0,
        outer_l2=5e-5,
        decay=0.5,
        decay_steps=(100,),
    ),
}
GROUND_TRUTHS = ("tiny", "small", "paper")  # language models, the default first
# Names of tables and histories in data/tables, by variant of the cell and language model.
SHIPPED: dict[str, dict[str, dict[str, Any]]] = {
    "enas_mean": {
        "tiny": {
            "table": "rnn_cell_ptb_tiny",
            "tuning_table": "rnn_cell_ptb_tiny_tuning",
            "history": "rnn_cell_search_ptb_tiny",
        },
        "small": {"table": "rnn_cell_ptb_small"},
    },
    "nao": {"tiny": {"table": "rnn_cell_nao_ptb_tiny"}},
}


@dataclasses.dataclass(frozen=True)
class CellDrawing:
    """Draws cells of a variant, a `motif.Drawing`."""

    variant: str

    def draw(self, arch: Arch, title: str = "") -> "Figure":
        """Return the tree of nodes as a picture."""
        from spd_jax.spaces.rnn_cell import drawing  # brings matplotlib

        return drawing.draw(arch, self.variant, title)


def problem(variant: str = VARIANT, mutation_rate: float = 0.1) -> Problem:
    """Return the problem of one variant of the cell.

    Args:
      variant: one of `spaces.rnn_cell.VARIANTS`.
      mutation_rate: probability that a mutation changes a locus.

    Raises:
      UserError: an unknown variant, or a rate that is no probability.
    """
    space = RnnCellSpace(variant, mutation_rate)
    return Problem(
        name="rnn_cell" if variant == VARIANT else space.name,
        space=space,
        family=lambda hidden: network.family(variant, hidden=hidden),
        dish_presets=DISH_PRESETS,
        dish_ranges="table_4",
        ground_truths={name: _ground_truth(variant, name) for name in GROUND_TRUTHS},
        features=space,
        structure=space,
        tokens=space,
        drawing=CellDrawing(variant),
        hidden_states=proxies.readout_states,
        parameters_in_the_paper=140,  # of a cell without gates
        embeddings={} if variant == "nao" else {RnnCellSpace("nao").name: same_graph},
        settings={"variant": variant, "mutation_rate": mutation_rate},
    )


def same_graph(archs: RnnCell) -> RnnCell:
    """Return cells of NAO's space as cells of the others, with the same nodes and edges `[M]`.

    They are those cells' nearest relatives, not the cells: their new state is the mean of other
    nodes (`network.output_weights`).
    """
    return archs


def _ground_truth(variant: str, name: str) -> GroundTruthPreset:
    config = LANGUAGE_MODELS[name]
    return GroundTruthPreset(
        functools.partial(_task, variant, name),
        config.epochs,
        "perplexity" if config.level == "word" else "bits per character",
        **SHIPPED.get(variant, {}).get(name, {}),
        describe=lambda data_dir: _task(variant, name, data_dir, None).describe(),
    )


def _task(
    variant: str, name: str, data_dir: str | None, checkpoint_dir: str | None
) -> LanguageModelTask:
    task = LanguageModelTask(variant, LANGUAGE_MODELS[name], data_dir, checkpoint_dir)
    task.check_text()
    return task
