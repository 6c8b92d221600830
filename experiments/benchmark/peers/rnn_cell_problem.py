"""The recurrent-cell dish as plain NumPy arrays, and what its peers share.

Every peer `*_rnn_cell.py` in this folder offers one function, `make_outer_gradient(problem)`. It
returns a callable without arguments; each call trains all motif-networks and returns, in NumPy,
their validation losses `[M]` and the gradient of `problem.outer_loss` of them in the synthetic
inputs `[2, N, L, D]`.

A motif-network is a cell of the variant nao (`spd_jax.spaces.rnn_cell_network` has the equations)
over a sequence, and a dense readout at every step. The inner loss is the mean binary cross-entropy
with logits plus `inner_l2 * sum(weights**2)`, minimised by Adam with the constants of `ADAM`.
"""

import dataclasses

import jax
import numpy as np

from spd_jax import dish
from spd_jax.dish import DishConfig, DishState
from spd_jax.motif import MotifFamily
from spd_jax.problems.rnn_cell import DISH_PRESETS
from spd_jax.spaces.rnn_cell import RnnCell, RnnCellSpace
from spd_jax.spaces.rnn_cell import network as rnn_cell_network


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """One dish of recurrent cells: what this package's dish needs, and views of it for peers.

    Attributes:
      cells: the motifs, NumPy, axis M in front.
      ground_truth: score of each motif, higher is better, float32 `[M]`.
      family: the motif-network.
      config: settings.
      state: initial weights and synthetic data, one member.
    """

    cells: RnnCell
    ground_truth: np.ndarray
    family: MotifFamily
    config: DishConfig
    state: DishState

    @property
    def weights(self) -> tuple[np.ndarray, ...]:
        """Initial weights, the same for all motifs.

        They are: input `[2 H, D]` and state `[2 H, H]` of node 0, nodes 1..11 `[11, 2 H, H]`,
        readout `[C, H]` and its bias `[C]`; gate rows first.
        """
        params = jax.tree.map(lambda x: np.asarray(x)[0], self.state.params)
        return (*params["cell"], params["weight"], params["bias"][:, 0])

    @property
    def data(self) -> np.ndarray:
        """What the outer loop learns: train inputs and valid inputs, `[2, N, L, D]`."""
        data = self.state.data
        return np.stack([data.train_inputs[0], data.valid_inputs[0]])

    @property
    def labels(self) -> np.ndarray:
        """Train labels and valid labels, 0 or 1, `[2, N, L, C]`."""
        data = self.state.data
        return np.stack([data.train_labels[0], data.valid_labels[0]])


def make(
    seed: int,
    cells: int = 40,
    inner_steps: int = 50,
    *,
    samples: int = 20,
    length: int = 10,
    inputs: int = 10,
    hidden: int = 3,
    outputs: int = 10,
) -> Problem:
    """Draw random cells, weights and data with the settings of the paper's table 4.

    Args:
      seed: of everything that is drawn.
      cells: M.
      inner_steps: T.
      samples: N, of train and of valid data.
      length: L, of a sequence.
      inputs: D, the width of the input.
      hidden: H, the width of the cell.
      outputs: C, the labels of a sample at every step.
    """
    cells_key, dish_key = jax.random.split(jax.random.key(seed))
    family = rnn_cell_network.family("nao", inputs, hidden, outputs, length)
    config = dataclasses.replace(
        DISH_PRESETS["paper"], inner_steps=inner_steps, train_samples=samples, valid_samples=samples
    )
    truth = np.random.default_rng(seed).standard_normal(cells, dtype=np.float32)
    state = dish.init(dish_key, family, config)
    return Problem(RnnCellSpace("nao").sample(cells_key, cells), truth, family, config, state)
