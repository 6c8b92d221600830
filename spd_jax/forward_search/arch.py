"""Architectures of forward search as frozen data, with a JSON form and one canonical text."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from spd_jax.errors import UserError, check_name

SEARCHES = ("cell", "macro", "rnn")
KINDS = ("normal", "reduction")
IMAGE_OPS = ("sep3", "sep5", "dil3", "dil5", "max3", "avg3", "identity")
HIGHWAY_OPS = ("tanh", "relu", "sigmoid", "identity")
# The seed of the recurrent search, DARTS V1: parent and activation of nodes 1 to 8.
RECURRENT_SEED = (
    (0, "relu"), (1, "relu"), (2, "tanh"), (3, "relu"), (4, "relu"), (1, "identity"), (5, "relu"),
    (1, "relu"),
)  # fmt: skip
RECURRENT_NODES = len(RECURRENT_SEED) + 1


class Edge(NamedTuple):
    """One shortcut: an operation on an input.

    Attributes:
      input: of an image cell: 0 the output of the cell before the previous one, 1 of the
        previous cell, 2 + i learner i of the same cell. Of a recurrent cell: 0 is [x; h], 1 + i
        node i of the seed, 10 + i learner i.
      op: name in `IMAGE_OPS` or `HIGHWAY_OPS`.
    """

    input: int
    op: str


Learner = tuple[Edge, ...]  # edges that are concatenated and projected, in order of their number


@dataclasses.dataclass(frozen=True)
class Arch:
    """What a network computes; its widths and the image size belong to a model.

    A slot is what grows as one: all cells of a kind in a cell search, one cell in a macro
    search, the cell in a recurrent one.

    Attributes:
      search: one of `SEARCHES`.
      kinds: "normal" or "reduction" of every cell, in order; of an rnn ("recurrent",).
      specs: for every slot of `slots`, its learners in the order in which they grew.
      ops: operations that learners may have, in the order of edge numbers; none given: all.
    """

    search: str
    kinds: tuple[str, ...]
    specs: tuple[tuple[Learner, ...], ...] = ()
    ops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Put edges into their order and refuse what is no network."""
        check_name("search", self.search, SEARCHES)
        known = ("recurrent",) if self.search == "rnn" else KINDS
        for kind in self.kinds:
            check_name("kind of cell", kind, known)
        for op in self.ops:
            check_name("operation", op, _all_ops(self.search))
        chosen = tuple(op for op in _all_ops(self.search) if op in self.ops)
        object.__setattr__(self, "ops", chosen or _all_ops(self.search))
        specs = self.specs or ((),) * len(self.slots)
        if not self.kinds or len(specs) != len(self.slots):
            raise UserError(
                f"an architecture of {len(self.kinds)} cells has {len(self.slots)} slots, not "
                f"{len(specs)}: give the learners of every slot"
            )
        ordered = tuple(
            tuple(self._checked(place, learner) for place, learner in enumerate(learners))
            for learners in specs
        )
        object.__setattr__(self, "specs", ordered)

    def _checked(self, place: int, learner: Iterable[Sequence[Any]]) -> Learner:
        """Return a learner's edges in order; `place` is its number in its slot."""
        edges = [Edge(*edge) for edge in learner]
        for edge in edges:
            check_name("operation", edge.op, self.ops)
            if not 0 <= edge.input < self.fixed_inputs + place:
                raise UserError(
                    f"learner {place} has input {edge.input}: give one below "
                    f"{self.fixed_inputs + place}, which stands before it"
                )
        if not edges or len(set(edges)) < len(edges):
            raise UserError(f"learner {place} must have edges, each once")
        return tuple(sorted(edges, key=self.number))

    @property
    def fixed_inputs(self) -> int:
        """Return the number of inputs that a cell has without learners."""
        return 1 + RECURRENT_NODES if self.search == "rnn" else 2

    @functools.cached_property
    def slots(self) -> tuple[str, ...]:
        """Return the names of what grows as one: kinds, numbers of cells, or "recurrent"."""
        if self.search == "macro":
            return tuple(f"cell{cell}" for cell in range(len(self.kinds)))
        return tuple(kind for kind in (*KINDS, "recurrent") if kind in self.kinds)

    def slot(self, cell: int) -> str:
        """Return the slot that a cell belongs to."""
        return f"cell{cell}" if self.search == "macro" else self.kinds[cell]

    def learners(self, slot: str) -> tuple[Learner, ...]:
        """Return the learners of a slot, in the order in which they grew."""
        return self.specs[self.slots.index(slot)]

    def candidates(self, slot: str) -> tuple[Edge, ...]:
        """Return all edges that a slot may grow next, in the order of their numbers."""
        inputs = range(self.fixed_inputs + len(self.learners(slot)))
        return tuple(Edge(source, op) for source in inputs for op in self.ops)

    def number(self, edge: Edge) -> int:
        """Return an edge's number: input * (number of operations) + operation."""
        return edge.input * len(self.ops) + self.ops.index(edge.op)

    def grown(self, chosen: Mapping[str, Iterable[Edge]]) -> "Arch":
        """Return the architecture with one more learner in every slot that `chosen` names."""
        specs = [
            (*self.learners(slot), tuple(chosen[slot])) if slot in chosen else self.learners(slot)
            for slot in self.slots
        ]
        return dataclasses.replace(self, specs=tuple(specs))

    @property
    def depth(self) -> int:
        """Return the largest number of learners of a slot."""
        return max(map(len, self.specs))

    def __str__(self) -> str:
        """Return the canonical text: equal for equal architectures, read by `parse`."""
        cells = "rnn" if self.search == "rnn" else "".join(kind[0] for kind in self.kinds)
        words = [
            slot + "".join("[" + ",".join(f"{e.input}:{e.op}" for e in own) + "]" for own in spec)
            for slot, spec in zip(self.slots, self.specs, strict=True)
            if spec
        ]
        some = self.ops != _all_ops(self.search)
        return " ".join([self.search, cells, *["ops=" + ",".join(self.ops)] * some, *words])

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        specs = [[[list(edge) for edge in own] for own in spec] for spec in self.specs]
        named = {"search": self.search, "kinds": list(self.kinds), "specs": specs}
        return named | {"ops": list(self.ops)}


def _all_ops(search: str) -> tuple[str, ...]:
    return HIGHWAY_OPS if search == "rnn" else IMAGE_OPS


def from_json(data: Any) -> Arch:
    """Read an architecture from what `Arch.to_json` wrote.

    Raises:
      UserError: the data are none.
    """
    try:
        specs = tuple(
            tuple(tuple(Edge(int(i), str(op)) for i, op in own) for own in spec)
            for spec in data["specs"]
        )
        kinds, ops = (tuple(map(str, data[name])) for name in ("kinds", "ops"))
        return Arch(str(data["search"]), kinds, specs, ops)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"no architecture ({error}): give the file that a run wrote") from error


def parse(text: str) -> Arch:
    """Read an architecture from its canonical text.

    >>> str(parse("cell nrn normal[0:sep3,1:max3][2:identity]"))
    'cell nrn normal[0:sep3,1:max3][2:identity]'

    Raises:
      UserError: the text is none.
    """
    words = text.split(" ")
    try:
        search, cells, *slots = words
        letters = {kind[0]: kind for kind in KINDS}
        kinds = ("recurrent",) if search == "rnn" else tuple(letters[own] for own in cells)
        chosen: dict[str, tuple[Learner, ...]] = {}
        ops: tuple[str, ...] = ()
        for word in slots:
            if word.startswith("ops="):
                ops = tuple(word.removeprefix("ops=").split(","))
                continue
            found = re.fullmatch(r"(\w+)((?:\[[^][]+\])+)", word)
            if not found:
                raise ValueError(word)
            learners = re.findall(r"\[([^][]+)\]", found[2])
            chosen[found[1]] = tuple(tuple(map(_edge, own.split(","))) for own in learners)
        arch = Arch(search, kinds, (), ops)
        if not set(chosen) <= set(arch.slots):
            raise KeyError(*chosen)
        return dataclasses.replace(arch, specs=tuple(chosen.get(slot, ()) for slot in arch.slots))
    except (KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{text!r} is no architecture: give the text that a run wrote") from error


def _edge(text: str) -> Edge:
    source, op = text.split(":")
    return Edge(int(source), op)


def seed(search: str, normal: int = 3, transitions: int = 2, ops: tuple[str, ...] = ()) -> Arch:
    """Return the network that a search starts from: no learners yet.

    Args:
      search: one of `SEARCHES`.
      normal: N, normal cells at each size of the feature maps.
      transitions: reductions of the size, each between two groups of normal cells.
      ops: operations that it may grow; none given: all of the search.
    """
    group = ("normal",) * normal
    kinds = ("recurrent",) if search == "rnn" else group + (("reduction", *group) * transitions)
    return Arch(search, kinds, (), ops)


def scaled(arch: Arch, normal: int) -> Arch:
    """Return an architecture with N normal cells at each size, for the final training.

    A cell search repeats its pattern. In a macro search each group of normal cells must become
    a whole number of times larger: copies of a cell go in front of it, with their inputs kept
    relative; transitions stay as they are (the released code's rule).

    Args:
      arch: of an image search.
      normal: N, normal cells at each size.

    Raises:
      UserError: a recurrent cell, or a macro search whose cells cannot be repeated to N.
    """
    if arch.search == "rnn":
        raise UserError("a recurrent cell has no number of cells: scale its width instead")
    transitions = arch.kinds.count("reduction")
    if arch.search == "cell":
        kinds = seed("cell", normal, transitions).kinds
        specs = dict(zip(arch.slots, arch.specs, strict=True))
        slots = Arch("cell", kinds).slots
        return Arch("cell", kinds, tuple(specs.get(slot, ()) for slot in slots), arch.ops)
    before = arch.kinds.count("normal") // (transitions + 1)
    if before < 1 or normal % before:
        raise UserError(
            f"normal={normal} cells are no multiple of {before}: a macro search repeats every "
            "cell equally often"
        )
    kinds_specs = [
        pair
        for pair in zip(arch.kinds, arch.specs, strict=True)
        for _ in range(normal // before if pair[0] == "normal" else 1)
    ]
    kinds = tuple(kind for kind, _ in kinds_specs)
    return Arch("macro", kinds, tuple(spec for _, spec in kinds_specs), arch.ops)
