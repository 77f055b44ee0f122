"""Transformers: tokenize, batch, run, pool."""
