"""Batch-invariant quantization to int8 graphs."""
