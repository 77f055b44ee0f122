"""Texts, load and measurements for benchmarks."""
