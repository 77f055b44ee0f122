"""Models that are like real ones in everything but sense: shape, vocabulary and files, with seeded random weights.

What a model costs in time and memory depends on its shape and on its tokenizer's pieces, not on what it has learnt, and
a machine can so be sized without a model hub.

    python benchmarks/standin.py multilingual-MiniLM-L12 FOLDER
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedmill_worker.cli.measure import corpus

#: Ids of XLM-R's tokenizer: the pieces of the vocabulary come after these.
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
#: Pieces are made of these syllables: consonant and vowel of three scripts, one, two and three bytes a letter.
SCRIPTS = (
    ("bcdfghjklmnprstvwyz", "aeiou"),
    ("бвгджзклмнпрстфхцчш", "аеиоуыэюя"),
    ("कखगघचछजझटठडढतथदध", "ािीुूेैोौ"),
)
#: How often each script is drawn: about two in three pieces of XLM-R are of Latin letters.
SCRIPT_WEIGHTS = (70, 15, 15)
#: Syllables of a piece, and how often that many are drawn.
SYLLABLES, SYLLABLE_WEIGHTS = (1, 2, 3, 4), (1, 7, 12, 3)
#: Texts whose words come from all over the vocabulary, one a line.
TEXTS = "texts.txt"
#: One piece of the vocabulary in so many is in them.
WORDS_ONE_IN = 8
#: Rows of weights that are drawn at once: 128 MB at 384 columns would be in memory otherwise.
BLOCK_ROWS = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a BERT encoder."""

    layers: int
    hidden: int
    vocabulary: int
    max_tokens: int

    @property
    def heads(self) -> int:
        return 12

    @property
    def intermediate(self) -> int:
        return 4 * self.hidden

    @property
    def table_parameters(self) -> int:
        """Parameters of which a text uses only the rows of its tokens."""
        return self.vocabulary * self.hidden

    @property
    def layer_parameters(self) -> int:
        """Parameters of which every token uses all."""
        return self.layers * (12 * self.hidden**2 + 13 * self.hidden)

    @property
    def parameters(self) -> int:
        return self.table_parameters + self.layer_parameters + (512 + 2 + 2) * self.hidden


#: By the name of what they are like.
SHAPES: Mapping[str, Shape] = {
    "MiniLM-L6": Shape(layers=6, hidden=384, vocabulary=30_522, max_tokens=256),
    "MiniLM-L12": Shape(layers=12, hidden=384, vocabulary=30_522, max_tokens=256),
    "base": Shape(layers=12, hidden=768, vocabulary=30_522, max_tokens=512),
    "multilingual-MiniLM-L12": Shape(layers=12, hidden=384, vocabulary=250_037, max_tokens=512),
}


def write(shape: Shape, folder: Path, *, seed: int = 1) -> Path:
    """Write a sentence-transformers folder; the same seed gives the same bytes.

    Takes seconds and 1.02 times the weights' bytes of disk for the largest of ``SHAPES``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = pieces(shape.vocabulary, seed=seed)
    config = {
        "model_type": "bert",
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": SPECIAL.index("<pad>"),
    }
    for name, content in (
        ("config.json", config),
        ("sentence_bert_config.json", {"max_seq_length": shape.max_tokens}),
        ("tokenizer.json", tokenizer(vocabulary)),
    ):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    (folder / TEXTS).write_text("\n".join(texts(vocabulary, seed=seed)), encoding="utf-8")
    write_weights(shape, folder / "model.safetensors", seed=seed)
    return folder


def pieces(count: int, *, seed: int) -> list[str]:
    """Return a vocabulary: XLM-R's special tokens, every word and letter of the corpora, then made-up words.

    The trie of 250,037 of them has about as many nodes as that of XLM-R's, on which a tokenizer's memory depends.
    """
    words = [*corpus.WORDS, *(word for line in corpus.FOREIGN_WORDS for word in line)]
    found = dict.fromkeys([*SPECIAL, "▁", *(f"▁{word}" for word in words), *sorted(set("".join(words)))])
    rng = random.Random(seed)
    while len(found) < count - 1:
        consonants, vowels = rng.choices(SCRIPTS, SCRIPT_WEIGHTS)[0]
        length = rng.choices(SYLLABLES, SYLLABLE_WEIGHTS)[0]
        word = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(length))
        found[word if rng.random() < 0.38 else f"▁{word}"] = None
    return [*found, "<mask>"]


def texts(vocabulary: Sequence[str], *, seed: int) -> list[str]:
    """Return texts of 1 to 400 words from all over the vocabulary: they use every page of the embedding table.

    Linux maps 64 kB around a page that is used, 43 rows of 384 columns; so one piece in eight is enough.
    """
    words = [piece.removeprefix("▁") for piece in vocabulary[len(SPECIAL) : -1 : WORDS_ONE_IN]]
    rng = random.Random(seed)
    rng.shuffle(words)
    found, start = [], 0
    while start < len(words):
        count = rng.randint(1, 400)
        found.append(" ".join(words[start : start + count]).strip())
        start += count
    return found


def tokenizer(vocabulary: Sequence[str]) -> dict[str, Any]:
    """Return a ``tokenizer.json`` of the kind that XLM-R has: Unigram over Metaspace."""
    special = {name: vocabulary.index(name) for name in (*SPECIAL, "<mask>")}
    whole = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    start, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": place, "content": name, **whole} for name, place in special.items()],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, text, end],
            "pair": [start, text, end, end, text, end],
            "special_tokens": {
                name: {"id": name, "ids": [special[name]], "tokens": [name]} for name in ("<s>", "</s>")
            },
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {
            "type": "Unigram",
            "unk_id": SPECIAL.index("<unk>"),
            # The earlier, the likelier, as in a trained one.
            "vocab": [[piece, -8.0 - 12.0 * i / len(vocabulary)] for i, piece in enumerate(vocabulary)],
            "byte_fallback": False,
        },
    }


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Return name and shape of every tensor, as BertModel names them."""
    hidden = shape.hidden
    linears = {
        "attention.self.query": (hidden, hidden),
        "attention.self.key": (hidden, hidden),
        "attention.self.value": (hidden, hidden),
        "attention.output.dense": (hidden, hidden),
        "intermediate.dense": (shape.intermediate, hidden),
        "output.dense": (hidden, shape.intermediate),
    }
    for table, rows in (("word", shape.vocabulary), ("position", 512), ("token_type", 2)):
        yield f"embeddings.{table}_embeddings.weight", (rows, hidden)
    norms = ["embeddings.LayerNorm"]
    for layer in range(shape.layers):
        name = f"encoder.layer.{layer}."
        norms += [f"{name}attention.output.LayerNorm", f"{name}output.LayerNorm"]
        for linear, (outputs, inputs) in linears.items():
            yield f"{name}{linear}.weight", (outputs, inputs)
            yield f"{name}{linear}.bias", (outputs,)
    for norm in norms:
        yield f"{norm}.weight", (hidden,)
        yield f"{norm}.bias", (hidden,)


def write_weights(shape: Shape, path: Path, *, seed: int) -> None:
    """Write a safetensors file of normal weights, block by block; layer normalization is the identity."""
    header, end = {}, 0
    for name, sizes in tensors(shape):
        start, end = end, end + 4 * int(np.prod(sizes))
        header[name] = {"dtype": "F32", "shape": sizes, "data_offsets": [start, end]}
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(packed).to_bytes(8, "little") + packed)
        for name, (rows, *columns) in tensors(shape):
            if "LayerNorm" in name:
                file.write(np.full(rows, float(name.endswith("weight")), dtype="<f4").tobytes())
                continue
            scale = np.float32(1.0 if "word" in name else 0.05)
            for first in range(0, rows, BLOCK_ROWS):
                block = (min(BLOCK_ROWS, rows - first), *columns)
                file.write((rng.standard_normal(block, dtype=np.float32) * scale).tobytes())


def main() -> None:
    write(SHAPES[sys.argv[1]], Path(sys.argv[2]))


if __name__ == "__main__":
    main()
