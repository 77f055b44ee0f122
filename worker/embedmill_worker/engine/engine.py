"""Texts in, vectors out, whatever the kind of model."""

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
    """Reads texts as one kind of model does."""

    def encode(self, texts: Sequence[str], prefix: str = "") -> list[Encoded]:
        """Tokenize texts of valid Unicode, with a prefix before each.

        Raises:
            InferenceError: it failed on one of them.
        """
        ...


class Encoder(Protocol):
    """Turns what its tokenizer makes of texts into vectors."""

    def __call__(self, ids: Sequence[Any]) -> Floats:
        """Return (n, dimension) for the ids of n texts, none of them empty; a row depends on its own ids alone.

        Raises:
            InferenceError: it failed.
            MemoryError: there is not enough.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """What the engine makes of some texts, in their order."""

    #: float32 (n, dimension); NaN for rejected texts.
    vectors: Floats
    #: uint32 (n,): tokens before truncation, special tokens included; 0 for texts that cannot be tokenized.
    token_counts: npt.NDArray[np.uint32]
    #: bool (n,): the text was longer than the model reads.
    truncated: npt.NDArray[np.bool_]
    #: Texts without a vector, by position.
    rejected: tuple[Rejected, ...] = ()
    tokenize_ms: float = 0.0
    inference_ms: float = 0.0

    @classmethod
    def rejecting(cls, rejected: Rejected, *, dimension: int) -> Embeddings:
        """Return what there is of one text without a vector."""
        return cls(
            vectors=np.full((1, dimension), np.nan, dtype=np.float32),
            token_counts=np.zeros(1, dtype=np.uint32),
            truncated=np.zeros(1, dtype=np.bool_),
            rejected=(replace(rejected, index=0),),
        )

    @classmethod
    def join(cls, parts: Sequence[tuple[Sequence[int], Embeddings]]) -> Embeddings:
        """Put parts together, at least one: each with the positions that its texts have in the whole."""
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
    """What turns texts into vectors: an engine, or one behind a cache."""

    @property
    def card(self) -> ModelCard:
        """What workers announce of it."""
        ...

    @property
    def runtime(self) -> str:
        """What rounds."""
        ...

    def embed(self, texts: Sequence[str], *, input_type: str | None = None, truncate: bool = True) -> Embeddings:
        """See ``Engine.embed``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One model, ready to serve. Loaded before a fork, it is shared by all children."""

    #: What workers announce of it.
    card: ModelCard
    #: What rounds: the back end's version and the CPU's instruction set.
    runtime: str
    #: Prefix by input type; of texts without one under "".
    prompts: Mapping[str, str]
    tokenizer: Tokenizer
    encoder: Encoder
    #: Encoders by input type, where one differs.
    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    #: Against the fp32 model, if this is another precision of it.
    price: PrecisionReport | None = None

    def embed(self, texts: Sequence[str], *, input_type: str | None = None, truncate: bool = True) -> Embeddings:
        """Embed texts; each one that occurs several times is computed once.

        Args:
            texts: an empty one is embedded as the model does.
            input_type: ``query`` or ``passage``: the model's prefix for it, if it has one.
            truncate: False rejects texts of more than ``max_tokens``.

        Raises:
            InferenceError: tokenizer or model failed; the message holds no text.
            MemoryError: there is not enough.
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
        """Tokenize what can be; None for texts that have no UTF-8 form."""
        readable = [i for i, text in enumerate(texts) if is_unicode(text)]
        encoded: list[Encoded | None] = [None] * len(texts)
        for i, one in zip(readable, self.tokenizer.encode([texts[i] for i in readable], prefix), strict=True):
            encoded[i] = one
        return encoded

    def _vectors(self, encoder: Encoder, ids: Sequence[Any]) -> Floats:
        """Return float32 (n, dimension): NaN for None and what is not finite, zeros where there is no token to run."""
        vectors = np.zeros((len(ids), self.card.dimension), dtype=np.float32)
        vectors[[i for i, row in enumerate(ids) if row is None]] = np.nan
        filled = [i for i, row in enumerate(ids) if row]
        if filled:
            vectors[filled] = _finite(encoder, [ids[i] for i in filled])
        return vectors


def _finite(encoder: Encoder, ids: Sequence[Any]) -> Floats:
    """Return the encoder's vectors, NaN for those that are not finite, also if no neighbour and no padding spoils them.

    The one look at every vector that is made, of any kind of model: 4 µs for 64 of them.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what numpy would warn of is found here
        vectors = encoder(ids)
        for row in np.flatnonzero(~finite_rows(vectors)).tolist():
            alone = encoder([ids[row]])
            vectors[row] = alone[0] if finite_rows(alone)[0] else np.nan
    return vectors


#: What is said of a text whose vector is not finite.
_NOT_FINITE: Final = Rejected(
    index=0,
    reason=Reason.NOT_FINITE,
    detail="the model's vector for it holds NaN or numbers too large for float32; use another precision or file of the "
    "model",
)


def _rejection(encoded: Encoded | None, max_tokens: int, *, truncate: bool) -> Rejected | None:
    """Return why a text gets no vector, whatever its position; None: it gets one."""
    if encoded is None:
        return Rejected(index=0, reason=Reason.INVALID_UNICODE, detail="lone surrogates have no UTF-8 form")
    if encoded.token_count > max_tokens and not truncate:
        detail = f"{encoded.token_count} tokens, limit {max_tokens}"
        return Rejected(index=0, reason=Reason.TOO_LONG, detail=detail)
    return None
