"""Search by ground truth and surrogate: Algorithm 1, and the proposers that feed it."""
