"""Forward architecture search (Hu et al., NeurIPS 2019): grow trained networks by shortcuts.

The authors call their method Petridish. It shares nothing but that word with the Synthetic
Petri Dish, which is the rest of this package.

Read `arch.py` (what a network is), `weak.py` (candidates that train without touching their
parent), `training.py` (a phase), `selection.py` (which candidates stay), `search.py` (the pool,
the hull and the queue), in this order.
"""
