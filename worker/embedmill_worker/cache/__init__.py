"""The embedding cache: a separate Redis, and an engine that asks it first."""
