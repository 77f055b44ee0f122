"""Engines, which turn texts into embeddings."""

from embedmill_worker.engine.engine import Embedder, Embeddings, Engine
from embedmill_worker.engine.loading import load
from embedmill_worker.engine.probing.measurements import BatchClass, ProbeResult

__all__ = ["BatchClass", "Embedder", "Embeddings", "Engine", "ProbeResult", "load"]
