"""The toy problem for tests of faults: it takes a moment to evaluate, and can hang once."""

import dataclasses
import os
import time

from toy_widths import TOY, Formula

from spd_jax import problems
from spd_jax.problems import GroundTruthPreset


@dataclasses.dataclass(frozen=True)
class SlowFormula(Formula):
    """The toy's task; whoever can rename the file FAULTS_HANG does not come back."""

    def evaluate(self, cell, seed, budget):
        hang = os.environ.get("FAULTS_HANG")
        if hang and os.path.exists(hang):
            try:
                os.rename(hang, f"{hang}.taken")
            except FileNotFoundError:
                pass
            else:
                time.sleep(10_000)
        time.sleep(0.03)
        return super().evaluate(cell, seed, budget)


problems.register(
    dataclasses.replace(
        TOY,
        name="toy_faults",
        ground_truths={"formula": GroundTruthPreset(lambda data, states: SlowFormula(), 4)},
    )
)
