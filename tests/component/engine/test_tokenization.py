"""Token ids as Hugging Face gives them, with the length before truncation."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.errors import InferenceError, ModelLoadError
from embedmill.safe.utf8 import is_unicode
from embedmill_worker.engine.transformer.tokenization import TextTokenizer
from embedmill_worker.models import ModelFiles

Tiny = Callable[..., ModelFiles]
CLS, SEP, THE, RIVER, QUERY = 2, 3, 4, 5, 11


def make(files: ModelFiles) -> TextTokenizer:
    return TextTokenizer(files.tokenizer, model=files.name, max_tokens=files.max_tokens)


def test_stored_truncation_and_padding_have_no_effect(tiny: Tiny) -> None:
    short, longer = make(tiny()).encode(["the", "the river " * 5])

    assert short.ids == [CLS, THE, SEP]
    assert longer.ids == [CLS, *[THE, RIVER] * 5, SEP]


def test_truncation_keeps_the_special_tokens(tiny: Tiny) -> None:
    (encoded,) = make(tiny(max_tokens=5)).encode(["the river the river the river"])

    assert encoded.ids == [CLS, THE, RIVER, THE, SEP]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("words", [0, 1, 13, 14, 15, 16, 17, 28, 29, 1000])
def test_the_token_count_is_that_before_truncation(tiny: Tiny, words: int, special: bool) -> None:
    (encoded,) = make(tiny(special=special)).encode(["the " * words])

    assert encoded.token_count == words + (2 if special else 0)
    assert len(encoded.ids) == min(16, encoded.token_count)


def test_a_prefix_comes_before_every_text(tiny: Tiny) -> None:
    encoded = make(tiny()).encode(["the", ""], "query: ")

    assert [e.ids for e in encoded] == [[CLS, QUERY, THE, SEP], [CLS, QUERY, SEP]]


def test_no_texts_give_no_ids(tiny: Tiny) -> None:
    assert make(tiny()).encode([]) == []


def test_a_failure_does_not_name_the_text(tiny: Tiny) -> None:
    with pytest.raises(InferenceError) as caught:
        make(tiny()).encode(["secret \ud800"])

    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_damaged_file_refuses_to_load(tiny: Tiny) -> None:
    files = tiny()
    files.tokenizer.write_text("{}")

    with pytest.raises(ModelLoadError, match=r"tokenizer\.json cannot be read"):
        make(files)


def test_a_limit_that_leaves_no_room_for_text_refuses_to_load(tiny: Tiny) -> None:
    with pytest.raises(ModelLoadError, match=r"max_tokens is 2, and its tokenizer adds 2"):
        make(tiny(max_tokens=2))


@given(st.text(st.characters(codec=None)))
def test_a_text_is_unicode_if_it_has_a_utf_8_form(text: str) -> None:
    has_lone_surrogate = any("\ud800" <= char <= "\udfff" for char in text)

    assert is_unicode(text) is not has_lone_surrogate
