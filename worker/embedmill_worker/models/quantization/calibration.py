"""How large the values inside a graph become: what int8 factors are chosen by."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx

from embedmill_worker.arrays import Floats
from embedmill_worker.onnx_runtime import open_graph

#: Lengths of the random samples, and how often each comes.
_LENGTHS = (8, 16, 32, 64, 128)
_REPEATS = 8
#: Protobuf, in which the graph is handed over, holds no more.
_MOST_BYTES = 2**31 - 1


def random_samples(vocabulary: int, *, max_tokens: int) -> list[list[int]]:
    """Gives texts of random tokens, the same every time: they find a model's outliers as well as prose does.

    Args:
        vocabulary: number of token ids.
        max_tokens: most tokens of a text.

    Returns:
        Token ids of 40 texts, of 8 to 128 tokens.
    """
    rng = np.random.default_rng(0)
    lengths = [min(length, max_tokens) for length in _LENGTHS] * _REPEATS
    return [rng.integers(0, vocabulary, length).tolist() for length in lengths]


def samples_of(graph: onnx.GraphProto) -> list[list[int]]:
    """Gives random samples that fit a graph's table of words, and of positions if the graph is fused.

    Raises:
        ValueError: it has no such table.
    """
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    ids = {"input_ids"}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in ids:
            ids.add(node.output[0])
        elif node.op_type == "EmbedLayerNormalization" and node.input[0] in ids and {*node.input[2:4]} <= rows.keys():
            return random_samples(rows[node.input[2]], max_tokens=rows[node.input[3]])
        elif node.op_type == "Gather" and node.input[1] in ids and node.input[0] in rows:
            return random_samples(rows[node.input[0]], max_tokens=max(_LENGTHS))
    raise ValueError("the graph has no table of words that input_ids select from; give samples of token ids")


def largest_values(
    model: onnx.ModelProto, folder: Path, names: Iterable[str], samples: Sequence[Sequence[int]]
) -> dict[str, Floats]:
    """Runs samples, one by one, and gives the largest absolute value of each channel (last axis) of inner values.

    Takes about 2 s for MiniLM and 40 samples, and three times what the graph itself holds in memory: weights beside it
    are mapped.

    Args:
        model: a text encoder.
        folder: where weights beside it lie.
        names: float32 values of the graph, of any shape (…, channels).
        samples: token ids, special tokens included.

    Returns:
        (channels,) of each name.

    Raises:
        ValueError: the graph is too large, or ONNX Runtime cannot run it.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    wanted = sorted(set(names))
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    if probe.ByteSize() > _MOST_BYTES:
        raise ValueError(f"the graph takes {probe.ByteSize()} bytes, and at most {_MOST_BYTES} can be calibrated")
    try:
        session = open_graph(probe.SerializeToString(), weights_folder=folder)
        inputs = [node.name for node in session.get_inputs()]
        largest: dict[str, Floats] = {}
        for sample in samples:
            ids = np.array([sample], dtype=np.int64)
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            for name, value in zip(wanted, session.run(wanted, {key: feed[key] for key in inputs}), strict=True):
                seen = np.abs(value.reshape(-1, value.shape[-1])).max(axis=0)
                largest[name] = np.maximum(largest.get(name, seen), seen)
    except Exception as error:  # onnxruntime's errors have no other common root; their words may hold ids
        raise ValueError(f"ONNX Runtime cannot run the graph for calibration ({type(error).__name__})") from None
    return largest
