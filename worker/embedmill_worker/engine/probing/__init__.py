"""Measurements when a model is first loaded: batch invariance, speed, and the cost of a precision."""
