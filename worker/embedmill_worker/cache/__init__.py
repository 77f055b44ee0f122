"""The embedding cache: a Redis of its own, and an engine that asks it first."""
