"""The same dish in other hands: plain implementations whose speed `benchmark.py` compares."""
