"""Ground truth: what can be bought (`task`), who buys it (`purchase`), and tables (`lookup`)."""
