"""Entry points: flags become settings, settings go into one call. Run from a clone."""
