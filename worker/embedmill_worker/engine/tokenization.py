"""From texts to token ids, with every text's honest length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from embedmill.errors import InferenceError, ModelLoadError


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the model reads it."""

    #: At most ``max_tokens`` ids, special tokens included.
    ids: list[int]
    #: Tokens before truncation, special tokens included.
    token_count: int


class TextTokenizer:
    """A ``tokenizer.json`` without the truncation and padding stored in it."""

    def __init__(self, path: Path, *, model: str, max_tokens: int) -> None:
        """Read the file.

        Raises:
            ModelLoadError: it cannot be read.
        """
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelLoadError(model, f"{path} cannot be read ({error}); restore it") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # As Hugging Face's ``longest_first``: drops from the right, keeps the special tokens.
        self._tokenizer.enable_truncation(max_tokens)
        self._model = model
        self._special = self._tokenizer.num_special_tokens_to_add(is_pair=False)

    def encode(self, texts: Sequence[str], prefix: str = "") -> list[Encoded]:
        """Tokenize texts with a prefix before each.

        Raises:
            InferenceError: the tokenizer failed on one of them.
        """
        prefixed = [prefix + text for text in texts] if prefix else list(texts)
        try:
            encodings = self._tokenizer.encode_batch_fast(prefixed)
        except Exception as error:  # tokenizers raises bare Exception; its message may quote the text
            raise InferenceError(self._model, f"the tokenizer failed ({type(error).__name__})") from None
        return [self._encoded(encoding) for encoding in encodings]

    def _encoded(self, encoding: Any) -> Encoded:
        ids = encoding.ids
        cut_off = sum(len(part) - self._special for part in encoding.overflowing)
        return Encoded(ids, len(ids) + cut_off)
