"""Prefixes that model families were trained with and whose files do not tell."""

import re

_BGE_EN = "Represent this sentence for searching relevant passages: "

#: A pattern of the model's name, and its prefixes by input type, from the models' own cards. First match wins.
_FAMILIES: tuple[tuple[str, dict[str, str]], ...] = (
    (r"(^|[^a-z0-9])e5([^a-z0-9]|$)", {"query": "query: ", "passage": "passage: "}),
    (r"nomic-embed-text", {"query": "search_query: ", "passage": "search_document: "}),
    (r"bge-(small|base|large)-en", {"query": _BGE_EN}),
    (r"bge-(small|base|large)-zh", {"query": "为这个句子生成表示以用于检索相关文章："}),
    (r"mxbai-embed-large|snowflake-arctic-embed-(xs|s|m|l|m-long)$", {"query": _BGE_EN}),
)

#: Members of a family that are instructed otherwise.
_EXCEPTIONS = re.compile(r"e5.*-instruct")


def known_prompts(name: str) -> dict[str, str]:
    """Returns the prefixes of a model by its name; empty for models that want none."""
    lowered = name.lower()
    if _EXCEPTIONS.search(lowered):
        return {}
    return next((dict(prompts) for pattern, prompts in _FAMILIES if re.search(pattern, lowered)), {})
