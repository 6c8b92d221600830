"""Training at full size, and tables of what it gave."""
