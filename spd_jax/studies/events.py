"""What studies tell while they work; displays listen, and studies know none of them."""

import dataclasses
import math
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of work begins: whatever was shown of an earlier one is finished.

    Attributes:
      name: what is counted, such as "outer steps".
      total: how many there are; 0 is a stage of unknown length.
      done: how many an earlier run did.
      note: a few words, such as "compiling".
      columns: heads of a table of what was done; none: there is no table.
    """

    name: str
    total: float
    done: float = 0
    note: str = ""
    columns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Advanced:
    """The latest stage has advanced; `note` holds the latest figures in a few words.

    `row` is the next line of the stage's table, where it has one.
    """

    done: float
    note: str = ""
    row: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SearchStage:
    """A search begins.

    Attributes:
      name: such as "dish + NAO, run 2 of 5".
      total: ground truths that it will have spent, in full evaluations.
      unit: name in `units.UNITS` of the scores.
      ceiling: noise ceiling of tau over random cells; None where it is not known.
    """

    name: str
    total: float
    unit: str
    ceiling: float | None = None


@dataclasses.dataclass(frozen=True)
class SearchAdvanced:
    """The latest search has bought something.

    Attributes:
      iteration: its number; 0 is the warm start.
      ground_truths: spent so far, in full evaluations.
      best: best validation score so far, higher is better; NaN while there is none.
      tau: Kendall's tau of predicted and true scores of this iteration's cells; NaN unknown.
      finished: whether the iteration is.
    """

    iteration: int
    ground_truths: float
    best: float
    tau: float = math.nan
    finished: bool = False


Event = Stage | Advanced | SearchStage | SearchAdvanced
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
