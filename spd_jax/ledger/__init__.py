"""Every ground-truth evaluation ever bought, and its tables."""

from spd_jax.ledger.evaluation import STATUSES, Evaluation, EvaluationKey, Purchase
from spd_jax.ledger.store import Ledger, Merged

__all__ = ["STATUSES", "Evaluation", "EvaluationKey", "Ledger", "Merged", "Purchase"]
