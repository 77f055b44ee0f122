"""What turns texts into embeddings."""

from embedmill_worker.engine.engine import Embeddings, Engine
from embedmill_worker.engine.loading import load
from embedmill_worker.engine.verdict import BatchClass, Verdict

__all__ = ["BatchClass", "Embeddings", "Engine", "Verdict", "load"]
