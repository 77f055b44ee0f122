"""Prefixes and pooling of model families whose files do not state them."""

import re

from embedmill_worker.models.files import Pooling

_BGE_EN = "Represent this sentence for searching relevant passages: "
_INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query"

#: Pattern of a model's name, and prefixes by input type, from the models' own cards. The first match wins.
_FAMILIES: tuple[tuple[str, dict[str, str]], ...] = (
    (r"(^|[^a-z0-9])e5([^a-z0-9]|$)", {"query": "query: ", "passage": "passage: "}),
    (r"nomic-embed-text", {"query": "search_query: ", "passage": "search_document: "}),
    (r"bge-(small|base|large)-en", {"query": _BGE_EN}),
    (r"bge-(small|base|large)-zh", {"query": "为这个句子生成表示以用于检索相关文章："}),
    (r"mxbai-embed-large", {"query": _BGE_EN}),
    (r"snowflake-arctic-embed-.*v2", {"query": "query: "}),
    (r"snowflake-arctic-embed-(xs|s|m|l)($|-long|-v1)", {"query": _BGE_EN}),
    (r"qwen3-embedding", {"query": f"{_INSTRUCT}\nQuery:"}),
    (r"stella[-_]en[-_](400m|1\.5b)[-_]v5", {"query": f"{_INSTRUCT}.\nQuery: "}),
    (r"embeddinggemma", {"query": "task: search result | query: ", "passage": "title: none | text: "}),
)

#: Members of a family that use other prefixes.
_EXCEPTIONS = re.compile(r"e5.*-instruct")


#: Families that pool by a single token, from the models' own cards; used if no file states the pooling.
_POOLINGS: tuple[tuple[str, Pooling], ...] = (
    (r"bge-(small|base|large|m3)|mxbai-embed|snowflake-arctic-embed", Pooling.CLS),
    (r"qwen3-embedding", Pooling.LAST_TOKEN),
)


def known_pooling(name: str) -> Pooling | None:
    """Return the pooling of a model by its name; None if the family is unknown or uses the mean."""
    return next((pooling for pattern, pooling in _POOLINGS if re.search(pattern, name.lower())), None)


def known_prompts(name: str) -> dict[str, str]:
    """Return the prefixes of a model by its name; empty for models without prefixes."""
    lowered = name.lower()
    if _EXCEPTIONS.search(lowered):
        return {}
    return next((dict(prompts) for pattern, prompts in _FAMILIES if re.search(pattern, lowered)), {})
