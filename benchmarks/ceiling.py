"""The raw ONNX Runtime ceiling: one pinned process a core, texts tokenized beforehand, sorted, in planned batches.

Runs the graph and nothing else: no pooling, no queue. Imports nothing of embedmill.

    python benchmarks/ceiling.py GRAPH TOKENIZER MAX_TOKENS BATCH_TOKENS < texts.json
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import sys
import time

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def batches(ids: list[list[int]], budget: int) -> list[list[list[int]]]:
    """Sort by length and cut so that longest × count stays within the budget."""
    out: list[list[list[int]]] = []
    for row in sorted(ids, key=len):
        if out and len(row) * (len(out[-1]) + 1) <= budget:
            out[-1].append(row)
        else:
            out.append([row])
    return out


def work(core: int, graph: str, ids: list[list[int]], budget: int, barrier: object, results: object) -> None:
    os.sched_setaffinity(0, {core})
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}
    feeds = []
    for batch in batches(ids, budget):
        width = max(map(len, batch))
        tokens = np.array([row + [0] * (width - len(row)) for row in batch], dtype=np.int64)
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in batch], dtype=np.int64)
        feed = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        feeds.append({name: value for name, value in feed.items() if name in names})
    for feed in feeds[:3]:
        session.run(None, feed)
    barrier.wait()
    start = time.perf_counter()
    for feed in feeds:
        session.run(None, feed)
    results.put(time.perf_counter() - start)


def main() -> None:
    graph, tokenizer_path, max_tokens, budget = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_path)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    ids = sorted((e.ids for e in tokenizer.encode_batch(json.load(sys.stdin))), key=len)
    cores = sorted(os.sched_getaffinity(0))
    context = mp.get_context("spawn")
    barrier, results = context.Barrier(len(cores)), context.Queue()
    shares = [ids[i :: len(cores)] for i in range(len(cores))]
    processes = [
        context.Process(target=work, args=(core, graph, share, budget, barrier, results))
        for core, share in zip(cores, shares, strict=True)
    ]
    for process in processes:
        process.start()
    seconds = [results.get() for _ in processes]
    for process in processes:
        process.join()
    print(json.dumps({"seconds": max(seconds), "tokens": sum(map(len, ids))}))


if __name__ == "__main__":
    main()
