"""The recurrent-cell space of NAO and ENAS: a tree of twelve gated nodes.

Rawal et al., section 4.2; Luo et al. (2018); Pham et al. (2018). Node 0 mixes the input
with the last state, every further node reads one earlier node:

    (gate, value) = W_i s_p,    s_i = s_p + sigmoid(gate) * (f_i(value) - s_p)

and the new state is a mean of nodes. The variants differ in two things only:

    nao        node 0 is a tanh;              the mean is over nodes 1..11
    enas       node 0 chooses its activation; the mean is over the nodes that nobody reads
    enas_mean  node 0 chooses its activation; the mean is over all nodes (ours)
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spd_jax.archs import unstack
from spd_jax.axes import Key
from spd_jax.errors import UserError, check_name

NODES = 12
ACTIVATIONS = ("tanh", "relu", "identity", "sigmoid")
VARIANTS = ("nao", "enas", "enas_mean")
VOCABULARY = 16  # token 0 starts a sequence, 1..11 are predecessors, 12..15 activations

PUBLISHED = {  # cells of the papers: variant, and the numbers that they print
    "nao": ("nao", "0 1 0 1 1 1 3 0 4 1 4 1 5 1 1 1 7 1 1 1 1 2"),
    "enas": ("enas", "0 0 0 1 1 2 1 2 0 2 0 5 1 1 0 6 1 8 1 8 1 8 1"),
}


class RnnCell(NamedTuple):
    """An arch: which node each node reads, and what it applies.

    Attributes:
      predecessor: int32 `[..., 11]`; node i = 1..11 reads node `predecessor[i - 1] < i`.
      activation: int32 `[..., 12]`, index into `ACTIVATIONS` for nodes 0..11; node 0's
        is 0 (tanh) in the variant nao.
    """

    predecessor: Any
    activation: Any


def check_variant(variant: str) -> None:
    """Refuse a name that is none of `VARIANTS`."""
    check_name("cell variant", variant, VARIANTS)


@dataclasses.dataclass(frozen=True)
class RnnCellSpace:
    """All cells of a variant, a `motif.SearchSpace` with tokens.

    There are 11! * 4^11 = 1.67e14 numberings in the variant nao, four times as
    many in the others; nodes can be renumbered without changing the cell.

    Attributes:
      variant: one of `VARIANTS`.
      mutation_rate: probability that `mutate` changes a locus; the paper's is lost, 0.1
        (about two loci a cell) is ours.
    """

    variant: str = "nao"
    mutation_rate: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a variant that is unknown, and a rate that is no probability."""
        check_variant(self.variant)
        if not 0 <= self.mutation_rate <= 1:
            raise UserError(f"mutation_rate={self.mutation_rate} must lie between 0 and 1")

    @property
    def name(self) -> str:
        """Name in ledgers and tables."""
        return f"rnn_cell_{self.variant}"

    @property
    def choices(self) -> np.ndarray:
        """Legal values `[L]` of every locus: locus l holds 0 .. choices[l] - 1."""
        pairs = [count for i in range(1, NODES) for count in (i, len(ACTIVATIONS))]
        return np.array(pairs if self.variant == "nao" else [len(ACTIVATIONS), *pairs])

    def sample(self, key: Key, count: int) -> RnnCell:
        """Draw cells `[count]`, every locus uniform over its choices; consumes `key`."""
        loci = jax.random.randint(key, (count, len(self.choices)), 0, jnp.asarray(self.choices))
        return self.from_loci(np.asarray(loci))

    def mutate(self, key: Key, archs: RnnCell) -> RnnCell:
        """Change every locus with probability `mutation_rate` to another value; consumes `key`."""
        loci, choices = self.to_loci(archs), self.choices
        where_key, step_key = jax.random.split(key)
        changed = np.asarray(jax.random.bernoulli(where_key, float(self.mutation_rate), loci.shape))
        step = np.asarray(jax.random.randint(step_key, loci.shape, 1, jnp.maximum(choices, 2)))
        return self.from_loci(np.where(changed, (loci + step) % choices, loci))

    def crossover(self, key: Key, first: RnnCell, second: RnnCell) -> RnnCell:
        """Take `first` before a random locus and `second` from there on; consumes `key`."""
        left, right = self.to_loci(first), self.to_loci(second)
        cut = np.asarray(jax.random.randint(key, (len(left), 1), 1, left.shape[1]))
        return self.from_loci(np.where(np.arange(left.shape[1]) < cut, left, right))

    def to_loci(self, archs: RnnCell) -> np.ndarray:
        """Return cells `[M]` as int32 `[M, L]`: predecessor and activation of each node in turn."""
        predecessor, activation = (np.asarray(x, np.int32) for x in archs)
        pairs = np.stack([predecessor, activation[..., 1:]], axis=-1)
        pairs = pairs.reshape(*pairs.shape[:-2], 2 * (NODES - 1))
        if self.variant == "nao":
            return pairs
        return np.concatenate([activation[..., :1], pairs], axis=-1)

    def from_loci(self, loci: np.ndarray) -> RnnCell:
        """Undo `to_loci`."""
        loci = np.asarray(loci, np.int32)
        head = np.zeros_like(loci[..., :1]) if self.variant == "nao" else loci[..., :1]
        pairs = loci if self.variant == "nao" else loci[..., 1:]
        return RnnCell(pairs[..., ::2], np.concatenate([head, pairs[..., 1::2]], axis=-1))

    @property
    def token_offsets(self) -> np.ndarray:
        """What is added to every locus to make it a token `[L]`: 1, or 12 for an activation."""
        pairs = [1, NODES] * (NODES - 1)
        return np.array(pairs if self.variant == "nao" else [NODES, *pairs])

    def to_tokens(self, archs: RnnCell) -> np.ndarray:
        """Return cells `[M]` in canonical form as tokens 1..15 of NAO's network: int32 `[M, L]`."""
        return self.to_loci(archs) + self.token_offsets.astype(np.int32)

    def from_tokens(self, tokens: np.ndarray) -> RnnCell:
        """Undo `to_tokens`; tokens must be legal."""
        return self.from_loci(np.asarray(tokens) - self.token_offsets)

    def legal_tokens(self) -> np.ndarray:
        """Return which of the 16 tokens may stand at each place: bool `[L, 16]`."""
        token = np.arange(VOCABULARY)
        low = self.token_offsets[:, None]
        return (token >= low) & (token < low + self.choices[:, None])

    def encode(self, arch: RnnCell) -> str:
        """Return the numbers that the papers print, with spaces between."""
        return " ".join(map(str, self.to_loci(arch).tolist()))

    def decode(self, text: str) -> RnnCell:
        """Read a cell from numbers.

        Raises:
          UserError: the wrong count, something that is no number, or a value that its place
            does not allow.
        """
        choices = self.choices
        words = text.split()
        if len(words) != len(choices) or not all(w.isdecimal() and w.isascii() for w in words):
            raise UserError(
                f"{text!r} is no cell of variant {self.variant}: give {len(choices)} numbers "
                "with spaces between"
            )
        # Longer numbers are too large for any place, and for int() beyond 4,300 digits.
        loci = np.array([int(word) if len(word) <= 2 else VOCABULARY for word in words])
        if np.any(loci >= choices):
            place = int(np.argmax(loci >= choices))
            raise UserError(
                f"{text!r} is no cell of variant {self.variant}: number {place + 1} must lie "
                f"between 0 and {choices[place] - 1}"
            )
        return self.from_loci(loci)

    def canonical(self, arch: RnnCell) -> RnnCell:
        """Renumber the nodes of one cell so that equal cells become the same arrays.

        The cell is a rooted tree whose weights are exchangeable: children are ordered by their
        subtrees (Aho, Hopcroft and Ullman, 1974), and nodes numbered in preorder.
        """
        activation = np.asarray(arch.activation).tolist()
        children: list[list[int]] = [[] for _ in range(NODES)]
        for node, parent in enumerate(np.asarray(arch.predecessor).tolist(), 1):
            children[parent].append(node)
        subtree: list[Any] = [None] * NODES
        for node in reversed(range(NODES)):
            children[node].sort(key=lambda child: subtree[child])
            subtree[node] = (activation[node], [subtree[child] for child in children[node]])
        predecessor: list[int] = []
        order: list[int] = []
        to_visit = [(0, 0)]
        while to_visit:
            node, parent = to_visit.pop()
            predecessor.append(parent)
            number = len(order)
            order.append(activation[node])
            to_visit += [(child, number) for child in reversed(children[node])]
        return RnnCell(np.array(predecessor[1:], np.int32), np.array(order, np.int32))

    def features(self, archs: RnnCell) -> np.ndarray:
        """Return cells in canonical form as their loci, one-hot: float64 `[M, F]`."""
        loci = self.to_loci(archs)
        columns = [
            loci[:, place, None] == np.arange(count) for place, count in enumerate(self.choices)
        ]
        return np.concatenate(columns, axis=1).astype(float)

    def structure(self, archs: RnnCell) -> np.ndarray:
        """Return counts that no numbering changes: float64 `[M, 44]`.

        They are: nodes with each activation (4), nodes at each depth (11), unread nodes with
        each activation (4), node 0's activation (4), pairs of a node's and its predecessor's
        activation (16), mean and largest depth, unread nodes, nodes that read node 0, largest
        number of readers.
        """
        return np.stack([_structure(cell) for cell in unstack(archs)])


def _structure(cell: RnnCell) -> np.ndarray:
    activation, predecessor = np.asarray(cell.activation), np.asarray(cell.predecessor)
    kinds = len(ACTIVATIONS)
    depth = np.zeros(NODES, int)
    for node, parent in enumerate(predecessor, 1):
        depth[node] = depth[parent] + 1
    readers = np.bincount(predecessor, minlength=NODES)
    pairs = kinds * activation[predecessor] + activation[1:]
    return np.concatenate(
        [
            np.bincount(activation, minlength=kinds),
            np.bincount(depth[1:] - 1, minlength=NODES - 1),
            np.bincount(activation[readers == 0], minlength=kinds),
            np.arange(kinds) == activation[0],
            np.bincount(pairs, minlength=kinds**2),
            [depth.mean(), depth.max(), np.sum(readers == 0), readers[0], readers.max()],
        ]
    ).astype(float)
