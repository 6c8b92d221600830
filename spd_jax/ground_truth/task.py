"""What can be bought: the training of one cell, or of many cells at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from spd_jax.ledger import Evaluation

Progress = Callable[[int, int, str], None]


def no_progress(done: int, total: int, note: str) -> None:
    """Tell nobody."""


class Task(Protocol):
    """The training of one cell at full size. Picklable, for example a frozen dataclass."""

    @property
    def budget(self) -> int:
        """Units of a full evaluation, such as epochs."""
        ...

    @property
    def unit(self) -> str:
        """What a score is, higher is better: "accuracy", "negative nats per token"."""
        ...

    @property
    def fingerprint(self) -> str:
        """A text that changes with every setting and every byte of data a score depends on."""
        ...

    @property
    def answers_smaller_budgets(self) -> bool:
        """Whether entry b of a curve is what an evaluation with budget b would have scored."""
        ...

    def evaluate(self, cell: str, seed: int, budget: int) -> Evaluation:
        """Train one cell.

        Args:
          cell: its name.
          seed: of everything random; equal arguments give equal scores.
          budget: units to train for.

        Returns:
          Scores, higher is better; a training that diverges returns a failed evaluation.

        Raises:
          UserError: the task itself cannot run (data are missing, say): nothing is
            bought. Any other exception fails this cell alone.
        """
        ...


@runtime_checkable
class ClosedTask(Task, Protocol):
    """A task that can evaluate only some cells of its space, such as a table."""

    @property
    def cells(self) -> Sequence[str]:
        """Names, in canonical form, of all that it can evaluate in full; they are different."""
        ...


@runtime_checkable
class BatchTask(Task, Protocol):
    """A task that answers many cells at once: a table, or one program that trains them all."""

    def evaluate_many(
        self,
        cells: Sequence[str],
        seeds: Sequence[int],
        budget: int,
        on_progress: Progress = no_progress,
    ) -> Iterator[tuple[int, Evaluation]]:
        """Train many cells; yield each evaluation as soon as it is known.

        It is written to the ledger when it is yielded. Errors are those of `evaluate`: an
        exception that is no UserError fails every cell that was not yet yielded.

        Args:
          cells: their names, `[n]`.
          seeds: the seed of each, `[n]`.
          budget: units to train for.
          on_progress: called while a batch trains with the steps done, the steps to do, and
            the latest figures in a few words.

        Yields:
          Place `i` and the evaluation of `cells[i]` with `seeds[i]`: each place once, in any
          order.
        """
        ...
