"""Synthetic Petri Dish architecture search in JAX."""
