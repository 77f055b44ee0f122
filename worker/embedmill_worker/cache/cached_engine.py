"""An engine that asks the embedding cache first."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from embedmill.protocol.cards import ModelCard
from embedmill.safe.utf8 import is_unicode
from embedmill_worker.cache import cache_entry
from embedmill_worker.cache.cache_entry import CacheEntry
from embedmill_worker.cache.store import EmbeddingCache
from embedmill_worker.engine.engine import Embeddings, Engine

log = logging.getLogger(__name__)

#: Tokens per second and core above which computing is as fast as asking the cache: tables of word vectors.
TABLE_TOKENS_PER_S: Final = 200_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedEngine:
    """An engine that asks the cache first; it has the interface of ``Engine``."""

    engine: Engine
    cache: EmbeddingCache
    #: Whether texts are embedded one at a time, whatever the model's batch class; see ``EMBEDMILL_EXACT``.
    is_exact: bool = False

    @property
    def card(self) -> ModelCard:
        """See ``Engine``."""
        return self.engine.card

    @property
    def runtime(self) -> str:
        """See ``Engine``."""
        return self.engine.runtime

    def embed(self, texts: Sequence[str], *, input_type: str | None = None, truncate: bool = True) -> Embeddings:
        """Embed texts; see ``Engine.embed``. Texts that the cache has are not computed; the others are stored in it."""
        began_s = time.perf_counter()
        hashes = [self._hash(text, input_type) for text in texts]
        found = self._find(hashes, truncate=truncate)
        missing = [i for i, entry in enumerate(found) if entry is None]
        looked_ms = (time.perf_counter() - began_s) * 1000
        log.debug("cache: %d of %d texts found", len(texts) - len(missing), len(texts), extra={"action": "cache"})
        parts = []
        if len(missing) < len(texts):
            parts.append(([i for i, entry in enumerate(found) if entry is not None], _embeddings(found, looked_ms)))
        if missing or not texts:
            made = self.engine.embed([texts[i] for i in missing], input_type=input_type, truncate=truncate)
            self._keep([hashes[i] for i in missing], made)
            parts.append((missing, made))
        return Embeddings.join(parts)

    def _hash(self, text: str, input_type: str | None) -> bytes | None:
        if not is_unicode(text):
            return None
        card = self.card
        bits = "exact" if self.is_exact else card.batch_class
        return cache_entry.hash_of(
            text, fingerprint=card.fingerprint, runtime=self.runtime, bits=bits, input_type=input_type
        )

    def _find(self, hashes: Sequence[bytes | None], *, truncate: bool) -> list[CacheEntry | None]:
        wanted = list(dict.fromkeys(hash for hash in hashes if hash is not None))
        read = dict(zip(wanted, self.cache.read(wanted, self.card.dimension), strict=True))
        found = [read.get(hash) if hash is not None else None for hash in hashes]
        # Without truncation the engine must see texts that are too long, to reject them.
        return [entry if entry is not None and (truncate or not entry.is_truncated) else None for entry in found]

    def _keep(self, hashes: Sequence[bytes | None], made: Embeddings) -> None:
        rejected = {one.index for one in made.rejected}
        entries = {
            hash: CacheEntry(
                vector=made.vectors[i],
                token_count=int(made.token_counts[i]),
                is_truncated=bool(made.truncated[i]),
            )
            for i, hash in enumerate(hashes)
            if hash is not None and i not in rejected
        }
        self.cache.write(list(entries.items()))


def _embeddings(found: Sequence[CacheEntry | None], looked_ms: float) -> Embeddings:
    """Return the entries that were found, in order; there must be at least one."""
    entries = [entry for entry in found if entry is not None]
    return Embeddings(
        vectors=np.stack([entry.vector for entry in entries]),
        token_counts=np.array([entry.token_count for entry in entries], dtype=np.uint32),
        truncated=np.array([entry.is_truncated for entry in entries], dtype=np.bool_),
        tokenize_ms=looked_ms,
    )
