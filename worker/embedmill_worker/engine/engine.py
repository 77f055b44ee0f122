"""The engine: turns texts into vectors with a model of any kind."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from embedmill.protocol.cards import ModelCard
from embedmill.reply import Reason, Rejected
from embedmill.safe.utf8 import is_unicode
from embedmill_worker.arrays import Floats, finite_rows
from embedmill_worker.engine.probing.measurements import PrecisionReport
from embedmill_worker.engine.transformer.tokenization import Encoded


class Tokenizer(Protocol):
    """A tokenizer of one kind of model."""

    def encode(self, texts: Sequence[str], prefix: str = "") -> list[Encoded]:
        """Tokenize texts of valid Unicode, with a prefix before each.

        Raises:
            InferenceError: the tokenizer failed on one of them.
        """
        ...


class Encoder(Protocol):
    """An encoder, which turns the ids from its tokenizer into vectors."""

    def __call__(self, ids: Sequence[Any]) -> Floats:
        """Return (n, dimension) for the ids of n texts, none of them empty; each row depends on its own ids only.

        Raises:
            InferenceError: the model failed.
            MemoryError: there is not enough memory.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Result of an engine for some texts, in their order."""

    #: float32 (n, dimension); NaN for rejected texts.
    vectors: Floats
    #: uint32 (n,): tokens before truncation, special tokens included; 0 for texts that cannot be tokenized.
    token_counts: npt.NDArray[np.uint32]
    #: bool (n,): whether the text was longer than the model reads.
    truncated: npt.NDArray[np.bool_]
    #: Texts without a vector, by position.
    rejected: tuple[Rejected, ...] = ()
    tokenize_ms: float = 0.0
    inference_ms: float = 0.0

    @classmethod
    def rejecting(cls, rejected: Rejected, *, dimension: int) -> Embeddings:
        """Return the result for one rejected text."""
        return cls(
            vectors=np.full((1, dimension), np.nan, dtype=np.float32),
            token_counts=np.zeros(1, dtype=np.uint32),
            truncated=np.zeros(1, dtype=np.bool_),
            rejected=(replace(rejected, index=0),),
        )

    @classmethod
    def join(cls, parts: Sequence[tuple[Sequence[int], Embeddings]]) -> Embeddings:
        """Join parts, at least one; each comes with the positions of its texts in the whole."""
        order = np.argsort([position for positions, _ in parts for position in positions])
        rejected = (replace(one, index=places[one.index]) for places, part in parts for one in part.rejected)
        return cls(
            vectors=np.concatenate([part.vectors for _, part in parts])[order],
            token_counts=np.concatenate([part.token_counts for _, part in parts])[order],
            truncated=np.concatenate([part.truncated for _, part in parts])[order],
            rejected=tuple(sorted(rejected, key=lambda one: one.index)),
            tokenize_ms=sum(part.tokenize_ms for _, part in parts),
            inference_ms=sum(part.inference_ms for _, part in parts),
        )


class Embedder(Protocol):
    """Interface of an engine, and of an engine behind a cache."""

    @property
    def card(self) -> ModelCard:
        """Model card that workers announce."""
        ...

    @property
    def runtime(self) -> str:
        """Back end and instruction set, which determine rounding."""
        ...

    def embed(self, texts: Sequence[str], *, input_type: str | None = None, truncate: bool = True) -> Embeddings:
        """See ``Engine.embed``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A loaded model, ready to serve. If it is loaded before a fork, all children share it."""

    #: Model card that workers announce.
    card: ModelCard
    #: Back end's version and CPU's instruction set, which determine rounding.
    runtime: str
    #: Prefix by input type; "" is the key for texts without an input type.
    prompts: Mapping[str, str]
    tokenizer: Tokenizer
    encoder: Encoder
    #: Encoders of the input types that need one of their own.
    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    #: Comparison with the fp32 model, if this is another precision of it and was measured.
    price: PrecisionReport | None = None

    def embed(self, texts: Sequence[str], *, input_type: str | None = None, truncate: bool = True) -> Embeddings:
        """Embed texts; a text that occurs several times is computed once.

        Args:
            texts: the texts; an empty one is embedded as its model does.
            input_type: ``query`` or ``passage``; selects the model's prefix, if it has one for it.
            truncate: False rejects texts of more than ``max_tokens``.

        Raises:
            InferenceError: the tokenizer or model failed; the message holds no text.
            MemoryError: there is not enough memory.
        """
        start_s = time.perf_counter()
        places: dict[str, int] = {}
        rows = [places.setdefault(text, len(places)) for text in texts]
        encoded = self._encode(list(places), self.prompts.get(input_type or "", ""))
        encoder = self.encoders.get(input_type or "", self.encoder)
        tokenized_s = time.perf_counter()
        limit = self.card.max_tokens
        rejections = [_rejection(e, limit, truncate=truncate) for e in encoded]
        kept = [e.ids if e and not r else None for e, r in zip(encoded, rejections, strict=True)]
        vectors = self._vectors(encoder, kept)
        has_vector = (~np.isnan(vectors[:, 0])).tolist()
        rejections = [
            r or (None if is_there else _NOT_FINITE) for r, is_there in zip(rejections, has_vector, strict=True)
        ]
        token_counts = np.array([e.token_count if e else 0 for e in encoded], dtype=np.uint32)
        if len(places) < len(rows):
            vectors, token_counts = vectors[rows], token_counts[rows]
        return Embeddings(
            vectors=vectors,
            token_counts=token_counts,
            truncated=token_counts > limit,
            rejected=tuple(replace(found, index=i) for i, row in enumerate(rows) if (found := rejections[row])),
            tokenize_ms=(tokenized_s - start_s) * 1000,
            inference_ms=(time.perf_counter() - tokenized_s) * 1000,
        )

    def _encode(self, texts: list[str], prefix: str) -> list[Encoded | None]:
        """Tokenize texts; return None for each that has no UTF-8 form."""
        readable = [i for i, text in enumerate(texts) if is_unicode(text)]
        encoded: list[Encoded | None] = [None] * len(texts)
        for i, one in zip(readable, self.tokenizer.encode([texts[i] for i in readable], prefix), strict=True):
            encoded[i] = one
        return encoded

    def _vectors(self, encoder: Encoder, ids: Sequence[Any]) -> Floats:
        """Return float32 (n, dimension): NaN for None and what is not finite, zeros for texts without tokens."""
        vectors = np.zeros((len(ids), self.card.dimension), dtype=np.float32)
        vectors[[i for i, row in enumerate(ids) if row is None]] = np.nan
        filled = [i for i, row in enumerate(ids) if row]
        if filled:
            vectors[filled] = _finite(encoder, [ids[i] for i in filled])
        return vectors


def _finite(encoder: Encoder, ids: Sequence[Any]) -> Floats:
    """Return the encoder's vectors; one that is not finite is computed again alone, and is NaN if that does not help.

    This is the only check of every vector, for all kinds of models. It takes 4 µs for 64 vectors.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # checked below
        vectors = encoder(ids)
        for row in np.flatnonzero(~finite_rows(vectors)).tolist():
            alone = encoder([ids[row]])
            vectors[row] = alone[0] if finite_rows(alone)[0] else np.nan
    return vectors


#: Rejection of a text whose vector is not finite.
_NOT_FINITE: Final = Rejected(
    index=0,
    reason=Reason.NOT_FINITE,
    detail="the model's vector for it holds NaN or numbers too large for float32; use another precision or file of the "
    "model",
)


def _rejection(encoded: Encoded | None, max_tokens: int, *, truncate: bool) -> Rejected | None:
    """Return the rejection of a text that gets no vector, with position 0; None if it gets one."""
    if encoded is None:
        return Rejected(index=0, reason=Reason.INVALID_UNICODE, detail="lone surrogates have no UTF-8 form")
    if encoded.token_count > max_tokens and not truncate:
        detail = f"{encoded.token_count} tokens, limit {max_tokens}"
        return Rejected(index=0, reason=Reason.TOO_LONG, detail=detail)
    return None
