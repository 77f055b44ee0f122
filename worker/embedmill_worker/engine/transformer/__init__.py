"""Transformers: tokenization, batching, forward pass and pooling."""
