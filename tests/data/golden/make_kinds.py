"""Makes tiny random models of every kind that is exported, and what sentence-transformers makes of texts with them.

Run by hand after a change, in a throw-away environment:

    python -m venv golden && golden/bin/pip install torch && golden/bin/pip install sentence-transformers
    golden/bin/python tests/data/golden/make_kinds.py

Reads `kinds/variants.json`: by name a base folder, the files laid over it, and nothing else. Writes the base folders,
`kinds/vectors.npz` (by `variant` and `variant/input type`, float32, (texts, dimension)) and `kinds/versions.json`.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import sentence_transformers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent / "kinds"
TEXTS = json.loads((HERE / "texts.json").read_text())
HIDDEN, LAYERS, HEADS, INNER, TOKENS, WORDS = 16, 2, 4, 32, 192, 320


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=WORDS, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=WORDS, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=WORDS, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    return tokenizer


def config(kind: str, **values: object) -> transformers.PretrainedConfig:
    sizes = {
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        # Far from zero, so that every part of the model shows in its vectors.
        "initializer_range": 0.4,
        "vocab_size": WORDS,
    }
    return transformers.AutoConfig.for_model(kind, **sizes, **values)


def base(kind: str) -> None:
    """One folder: weights, tokenizer, and the files that all variants share."""
    torch.manual_seed(3)
    folder = HERE / kind
    shutil.rmtree(folder, ignore_errors=True)
    after_padding = {"max_position_embeddings": TOKENS + 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    if kind in ("bert", "distilbert"):
        tokenizer, names = (
            wordpiece(),
            {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        )
        made = config(kind, max_position_embeddings=TOKENS, **({"hidden_dim": INNER} if kind == "distilbert" else {}))
    else:
        tokenizer = byte_level() if kind == "roberta" else unigram()
        names = {"unk": "<unk>", "pad": "<pad>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
        made = config(kind, **after_padding, **({} if kind == "mpnet" else {"type_vocab_size": 1}))
    model = transformers.AutoModel.from_config(made)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm" in name or "layer_norm" in name or name.endswith("bias"):
                weight.add_(torch.randn_like(weight) * 0.2)
    # One of them split over several files.
    model.save_pretrained(folder, max_shard_size="30KB" if kind == "xlm-roberta" else "1GB")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=TOKENS,
        model_input_names=["input_ids", "attention_mask", *(["token_type_ids"] if kind == "bert" else [])],
        **{f"{name}_token": token for name, token in names.items()},
    )
    fast.save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": TOKENS, "do_lower_case": False}))


def dense(folder: Path, outputs: int, *, has_bias: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(outputs)
    tensors = {"linear.weight": torch.randn(outputs, HIDDEN) * 0.4}
    if has_bias:
        tensors["linear.bias"] = torch.randn(outputs) * 0.2
    save_file(tensors, folder / "model.safetensors")


def main() -> None:
    for kind in ("bert", "distilbert", "mpnet", "roberta", "xlm-roberta"):
        base(kind)
    dense(HERE / "bert/2_Dense", 8, has_bias=True)
    dense(HERE / "bert/3_Dense", 12, has_bias=False)
    torch.set_num_threads(1)
    vectors = {}
    for name, variant in json.loads((HERE / "variants.json").read_text()).items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            shutil.copytree(HERE / variant["base"], folder)
            for path, content in variant["files"].items():
                (folder / path).parent.mkdir(exist_ok=True)
                (folder / path).write_text(json.dumps(content))
            model = sentence_transformers.SentenceTransformer(str(folder), device="cpu").to(torch.float32)
            ways = {"": model.encode, "/query": model.encode_query, "/passage": model.encode_document}
            # One at a time: no neighbour, no padding.
            for kind, encode in ways.items():
                vectors[name + kind] = np.concatenate([encode([text], convert_to_numpy=True) for text in TEXTS])
            sys.stdout.write(f"{name}: {vectors[name].shape}\n")
    np.savez_compressed(HERE / "vectors.npz", **vectors)
    versions = {m.__name__: m.__version__ for m in (torch, transformers, sentence_transformers)}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
