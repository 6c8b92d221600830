"""Every ground-truth evaluation ever bought, and its tables."""

from spd_jax.ledger.store import (
    STATUSES,
    Evaluation,
    EvaluationKey,
    Ledger,
    Merged,
    Purchase,
)

__all__ = ["STATUSES", "Evaluation", "EvaluationKey", "Ledger", "Merged", "Purchase"]
