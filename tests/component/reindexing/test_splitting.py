"""Splitting: no part is longer than asked, and nothing of the text is left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from embedmill import InvalidRequestError, SourceError
from embedmill.reindexing import BadRecord, Record
from embedmill.reindexing.sources.base import Values
from embedmill.reindexing.splitting import Split, Splitter, is_heading
from embedmill_worker.cli.measure import corpus
from embedmill_worker.models import resolve
from embedmill_worker.settings import DEFAULT_MODEL
from support.odd_models import PANIC_WORD, write_odd_model


@pytest.fixture(scope="module")
def tokenizer(data_dir):
    """The model's file, whose own truncation and padding are to be ignored."""
    return resolve(DEFAULT_MODEL, data_dir=data_dir).tokenizer


def counted(tokenizer):
    loaded = Tokenizer.from_file(str(tokenizer))
    loaded.no_truncation()
    loaded.no_padding()
    return lambda text: len(loaded.encode(text).ids)


@pytest.mark.property
@pytest.mark.parametrize(("max_tokens", "overlap"), [(16, 0), (32, 8), (128, 20)])
def test_no_part_has_more_tokens_than_asked_for_and_each_says_where_it_begins(tokenizer, max_tokens, overlap):
    splitter, count = Splitter(max_tokens=max_tokens, overlap_tokens=overlap, tokenizer=tokenizer), counted(tokenizer)
    for text in [*corpus.multilingual(60), *corpus.long(5)]:
        for is_markdown in (False, True):
            parts = splitter.parts(text, is_markdown=is_markdown)
            assert all(count(part) <= max_tokens for _, part in parts)
            assert all(text[start : start + len(part)] == part for start, part in parts)


@pytest.mark.property
def test_every_character_is_in_some_part(tokenizer):
    splitter = Splitter(max_tokens=12, tokenizer=tokenizer)

    @given(st.text(st.sampled_from("ab é中 .\n#*-`|[]()0"), max_size=200))
    def holds(text):
        for is_markdown in (False, True):
            covered = set()
            for start, part in splitter.parts(text, is_markdown=is_markdown):
                covered.update(range(start, start + len(part)))
            assert all(i in covered for i, char in enumerate(text) if not char.isspace())

    holds()


def test_parts_are_named_after_their_document_and_keep_their_names(tokenizer):
    splitter = Splitter(max_tokens=32, tokenizer=tokenizer)
    text = "\n\n".join(corpus.short(12))
    before = list(Split(Values([Record(id="guide.md", text=text, metadata={"lang": "id"})]), splitter))
    assert [part.id for part in before] == [f"guide.md#{n}" for n in range(len(before))]
    assert {part.parent for part in before} == {"guide.md"}
    assert before[1].metadata == {"lang": "id", "part": 1, "start": text.index(before[1].text)}
    after = list(Split(Values([Record(id="guide.md", text=text + "\n\nOne more.", metadata={"lang": "id"})]), splitter))
    assert after[: len(before) - 1] == before[:-1]


def test_markdown_is_cut_at_its_headings(tokenizer):
    text = "# One\n\nSome text of a few words here.\n\n# Two\n\nMore text of a few words.\n"
    parts = Splitter(max_tokens=20, tokenizer=tokenizer).parts(text, is_markdown=True)
    assert [part.splitlines()[0] for _, part in parts] == ["# One", "# Two"]


def test_an_empty_text_is_one_empty_part(tokenizer):
    (part,) = Split(Values([("a", "")]), Splitter(max_tokens=16, tokenizer=tokenizer))
    assert (part.id, part.text, part.parent) == ("a#0", "", "a")


def test_what_cannot_be_split_is_one_document_s_problem(tokenizer):
    items = list(Split(Values([("a", "\ud800"), ("b", "fine")]), Splitter(max_tokens=16, tokenizer=tokenizer)))
    assert isinstance(items[0], BadRecord)
    assert (items[0].id, items[0].is_anonymous) == ("a", False)
    assert items[1].id == "b#0"


def test_what_cannot_be_asked_for_is_refused(tokenizer, tmp_path):
    for max_tokens, overlap in ((4, 0), (16, 9), (16, -1)):
        with pytest.raises(InvalidRequestError):
            Splitter(max_tokens=max_tokens, overlap_tokens=overlap, tokenizer=tokenizer)
    for data in (None, b"{}", b"\xff"):
        if data is not None:
            (tmp_path / "tokenizer.json").write_bytes(data)
        with pytest.raises(SourceError, match=r"tokenizer\.json"):
            Splitter(max_tokens=16, tokenizer=tmp_path / "tokenizer.json").parts("x", is_markdown=False)


def test_a_document_s_own_part_and_start_are_kept(tokenizer):
    document = Record(id="a", text="short", metadata={"part": "IV", "start": "2020-01-01", "n": 1})
    (part,) = Split(Values([document]), Splitter(max_tokens=16, tokenizer=tokenizer))
    kept = {"document_part": "IV", "document_start": "2020-01-01", "n": 1}
    assert part.metadata == {**kept, "part": 0, "start": 0}


def test_a_text_on_which_the_tokenizer_panics_is_rejected_alone_and_none_of_it_is_printed(tmp_path, capfd):
    folder = write_odd_model(tmp_path / "model")
    source = Values([("a", "the river"), ("b", f"quagga {PANIC_WORD}"), ("c", "the")])
    items = list(Split(source, Splitter(max_tokens=16, tokenizer=folder / "tokenizer.json")))
    assert [item.text for item in items if isinstance(item, Record)] == ["the river", "the"]
    assert [(item.id, item.reason, item.detail) for item in items if isinstance(item, BadRecord)] == [
        ("b", "failed", "the tokenizer failed on it (PanicException)")
    ]
    assert capfd.readouterr() == ("", "")


def test_a_heading_is_never_a_part_by_itself(tokenizer):
    long = "A sentence of several words stands here. " * 30
    splitter = Splitter(max_tokens=64, tokenizer=tokenizer)
    for text in (f"# One\n\n## Two\n\n{long}\n\nThree\n-----\n\n{long}\n", f"{long}\n\n# The end\n"):
        parts = [part for _, part in splitter.parts(text, is_markdown=True)]
        assert not any(is_heading(part) for part in parts)
        assert all(counted(tokenizer)(part) <= 64 for part in parts)
