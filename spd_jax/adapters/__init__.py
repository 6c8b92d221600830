"""Faces of the dish for tools that people already use; each module needs its own library.

- `sklearn`: the dish as an estimator (extra `scikit-learn`).
- `optuna`: a sampler, a pruner, and a ledger as a study (extra `optuna`).
- `flax`: a module of linen or nnx as a motif-network (flax comes with the package).
"""
