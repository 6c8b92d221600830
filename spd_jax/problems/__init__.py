"""One file for each search space: all that a study needs to know of it."""
