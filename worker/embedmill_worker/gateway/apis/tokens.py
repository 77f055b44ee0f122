"""Arrays of token ids back to texts, for requests that send those. Needs the model's tokenizer on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from embedmill.errors import EmbedError
from embedmill.model_spec import ModelSpec
from embedmill.protocol.cards import ModelCard
from embedmill_worker.gateway.refusals import Kind, RefusedError

_ADVICE: Final = "send text instead (in LangChain: check_embedding_ctx_length=False)"


class Detokenizer:
    """Tokenizers of the models that were asked for, read once each."""

    def __init__(self, data_dir: Path, specs: Mapping[str, ModelSpec]) -> None:
        """Take where models are kept, and those whose place differs from their name."""
        self._data_dir = data_dir
        self._specs = specs
        self._read: dict[str, Any] = {}

    async def texts(self, card: ModelCard, arrays: Sequence[Sequence[int]], param: str) -> list[str]:
        """Return the texts that the model's tokenizer makes exactly these tokens of.

        Args:
            card: of the model.
            arrays: each text's tokens, with or without those that the tokenizer puts around every text.
            param: the request's field that they come from, for errors.

        Raises:
            RefusedError: there are none, or the tokenizer is not on this machine.
        """
        return await asyncio.to_thread(self.read, card, arrays, param)

    def read(self, card: ModelCard, arrays: Sequence[Sequence[int]], param: str) -> list[str]:
        """Return what ``texts`` does, in the calling thread."""
        tokenizer = self._tokenizer(card, param)
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        found = []
        for index, ids in enumerate(arrays):
            if not ids:
                raise RefusedError(Kind.INVALID, f"'{param}[{index}]' must not be empty", param=param)
            wrong = next((id for id in ids if not 0 <= id < size), None)
            if wrong is not None:
                reason = f"'{param}[{index}]' holds token {wrong}, but {card.name} has {size} tokens; {_ADVICE}"
                raise RefusedError(Kind.INVALID, reason, param=param)
            text = tokenizer.decode(list(ids), skip_special_tokens=True)
            bare, whole = (tokenizer.encode(text, add_special_tokens=flag).ids for flag in (False, True))
            if list(ids) not in (bare, whole):
                reason = f"'{param}[{index}]' are tokens that {card.name}'s tokenizer makes of no text; {_ADVICE}"
                raise RefusedError(Kind.INVALID, reason, param=param)
            found.append(text)
        return found

    def _tokenizer(self, card: ModelCard, param: str) -> Any:
        if card.fingerprint not in self._read:
            self._read[card.fingerprint] = self._load(card, param)
        return self._read[card.fingerprint]

    def _load(self, card: ModelCard, param: str) -> Any:
        unable = RefusedError(
            Kind.INVALID, f"The tokenizer of {card.name} is not on the gateway's machine; {_ADVICE}", param=param
        )
        try:
            from tokenizers import Tokenizer  # noqa: PLC0415  a gateway for texts alone goes without

            from embedmill_worker.models import resolve  # noqa: PLC0415

            spec = self._specs.get(card.name, card.name)
            files = resolve(spec, data_dir=self._data_dir, download=False)
        except (EmbedError, ModuleNotFoundError):
            raise unable from None
        path = getattr(files, "tokenizer", None)
        if path is None:
            raise unable
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
