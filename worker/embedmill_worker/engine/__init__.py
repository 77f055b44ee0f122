"""What turns texts into embeddings."""

from embedmill_worker.engine.engine import Embedder, Embeddings, Engine
from embedmill_worker.engine.loading import load
from embedmill_worker.engine.verdict import BatchClass, Verdict

__all__ = ["BatchClass", "Embedder", "Embeddings", "Engine", "Verdict", "load"]
