"""Models: finding them by name or in folders, and turning both into files that the engine can run."""

from embedmill_worker.models.files import ModelFiles, Pooling
from embedmill_worker.models.fingerprint import Model, fingerprint
from embedmill_worker.models.formats.fasttext_file import FastTextFile
from embedmill_worker.models.formats.static import StaticTable
from embedmill_worker.models.precision import in_precision
from embedmill_worker.models.registry import KnownModel, known, resolve, tokenizer_of

__all__ = [
    "FastTextFile",
    "KnownModel",
    "Model",
    "ModelFiles",
    "Pooling",
    "StaticTable",
    "fingerprint",
    "in_precision",
    "known",
    "resolve",
    "tokenizer_of",
]
