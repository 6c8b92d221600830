"""What a study needs to know of a search space."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from spd_jax.axes import Arch, Archs, Array, Params
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.files import Path
from spd_jax.ground_truth import lookup
from spd_jax.ground_truth.lookup import TruthTable
from spd_jax.ground_truth.task import Task
from spd_jax.ledger import table
from spd_jax.motif import Drawing, Features, MotifFamily, Paths, SearchSpace, Structure, Tokens
from spd_jax.surrogates.dish_surrogate import DishSurrogate
from spd_jax.surrogates.protocol import Surrogate

ReadTable = Callable[[Path, str], lookup.Items]


@dataclasses.dataclass(frozen=True)
class GroundTruthPreset:
    """One way to train a problem's motifs at full size.

    Attributes:
      task: `task(data_dir, checkpoint_dir) -> Task`. `data_dir` is the folder of the data,
        None downloads them; a long training saves itself into `checkpoint_dir`, None saves
        nothing. It raises UserError where data are at hand that cannot be trained on.
      budget: units of a full evaluation, such as epochs; the task's own.
      unit: name in `units.UNITS` in which its scores are shown.
      table: name of the shipped table of evaluations; empty where there is none.
      tuning_table: the same of motifs that settings are chosen on: no figure uses them.
      history: name of the shipped record of searches.
      looked_up: whether the task answers from a table in a format of others, whose path is
        `data_dir`: see `Problem.read_table`.
      describe: `describe(data_dir)` says how much of the data is used, in a few words for
        people; empty where that is all.
    """

    task: Callable[[str | None, str | None], Task]
    budget: int
    unit: str = "score"
    table: str = ""
    tuning_table: str = ""
    history: str = ""
    looked_up: bool = False
    describe: Callable[[str | None], str] = lambda data_dir: ""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A search space with all that a study needs: the one thing that a new space registers.

    Attributes:
      name: in the registry and on the command line.
      space: the motifs.
      family: `family(hidden) -> MotifFamily`, the motif-network of a width.
      hidden_size: the width to take where nothing else is said.
      dish_presets: settings of the dish by name; "best" among them.
      dish_ranges: of which of the papers' tables, "table_2" or "table_4", the ranges fit its dish:
        see `studies.tuning`.
      second_dish: another motif-network with settings of its own, which judges untrained beside
        the first one; None: there is none.
      ground_truths: ways to train a motif by name, the default first.
      features: vectors for regressors.
      structure: counts for regressors; None: the features are the strongest vectors known.
      paths: path encoding for regressors; None: there is none.
      tokens: spelling for NAO; None: NAO does not take part.
      drawing: of one motif; None: no picture of the best one.
      hidden_states: `hidden_states(family) -> states(params, arch, inputs)`, what proxies of
        hidden states look at; None: the outputs.
      rivals: surrogates beside those that every space has, by name.
      parameters_in_the_paper: of the motif-network; None where there is no such number.
      costs: `costs[name](archs [M]) -> [M]` float64, what a motif costs at full size, such as
        its "parameters" or "multiply_adds"; known without training.
      proxies: `proxies(hidden)` returns zero-cost proxies by name, `ScoreFree` surrogates that look
        at the motif-network of a width; None: `surrogates.proxies` fit any network.
      full_size_proxies: the same of networks as large as those that ground truth trains, which
        take seconds for each motif.
      read_table: `read_table(path, ground_truth)` reads a table in a format of others as
        evaluations of one of `ground_truths` that is looked up, cells by any spelling; an empty
        name lets it choose. None: only our own format. It raises UserError where the file is
        none of the formats.
      table_cells: texts of the motifs that a table of part "grid" holds, such as every kind of
        unit with the same slopes; empty: its tables hold random motifs.
      coordinate: `coordinate(archs [M]) -> [M]` float64, one number along which scores vary
        smoothly within a group, such as the slope; None: there is none.
      groups: `groups(archs [M])` returns the names of the groups that motifs fall into, such as
        the kind of unit, M texts; None: they are all of one group.
      embeddings: by the name of another space, what puts its archs `[M]` into this one, as
        themselves or, where none of this one is the same, as their nearest relatives.
      settings: plain data that tell it from a problem of the same space, such as the rate of
        mutation; recorded with the runs.
    """

    name: str
    space: SearchSpace
    family: Callable[[int], MotifFamily]
    dish_presets: Mapping[str, DishConfig]
    ground_truths: Mapping[str, GroundTruthPreset]
    features: Features
    hidden_size: int = 3
    dish_ranges: str = "table_2"
    second_dish: DishSurrogate | None = None
    structure: Structure | None = None
    paths: Paths | None = None
    tokens: Tokens | None = None
    drawing: Drawing | None = None
    hidden_states: Callable[[MotifFamily], Callable[[Params, Arch, Array], Array]] | None = None
    rivals: Mapping[str, Surrogate] = dataclasses.field(default_factory=dict)
    parameters_in_the_paper: int | None = None
    costs: Mapping[str, Callable[[Archs], np.ndarray]] = dataclasses.field(default_factory=dict)
    proxies: Callable[[int], Mapping[str, Surrogate]] | None = None
    full_size_proxies: Mapping[str, Surrogate] = dataclasses.field(default_factory=dict)
    read_table: ReadTable | None = None
    table_cells: tuple[str, ...] = ()
    coordinate: Callable[[Archs], np.ndarray] | None = None
    groups: Callable[[Archs], list[str]] | None = None
    embeddings: Mapping[str, Callable[[Any], Archs]] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def ground_truth(self, name: str) -> GroundTruthPreset:
        """Return one of `ground_truths`.

        Raises:
          UserError: there is none of this name.
        """
        if name not in self.ground_truths:
            raise UserError(
                f"{self.name} has no ground truth {name!r}: use one of "
                f"{', '.join(self.ground_truths)}"
            )
        return self.ground_truths[name]

    def truth_table(self, path: Path, ground_truth: str = "") -> TruthTable:
        """Read a table of ground truth in our own format or in one that `read_table` knows.

        Args:
          path: the file.
          ground_truth: which scores of a table in a format of others to take: one of
            `ground_truths` that is looked up; empty lets the reader choose.

        Raises:
          UserError: the file is neither, or holds motifs of another space.
        """
        read_others = self.read_table
        if read_others is None or table.is_table(path):
            return lookup.read(path, self.space)
        return lookup.read(path, self.space, lambda own: read_others(own, ground_truth))

    def strongest_vectors(self, archs: Archs) -> np.ndarray:
        """Return `structure` where there is one, else `features`: `[M, F]` float64."""
        if self.structure is None:
            return self.features.features(archs)
        return self.structure.structure(archs)
