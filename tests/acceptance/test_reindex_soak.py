"""A corpus of 200,000 texts: memory stays flat, on this side and in Redis. `make soak` runs it, in some ten minutes."""

from contextlib import ExitStack

import pyarrow.parquet as pq
import pytest

from embedmill_worker.cli.measure import corpus
from support.benchmark import benchmark

bench, context = benchmark("reindex"), benchmark("context")

TEXTS = 200_000

#: Texts on which the machine's limit is measured, before and after.
SAMPLE = 10_000

CLIENT_MB, REDIS_MB = 150, 100


@pytest.mark.soak
def test_memory_stays_flat_over_200000_texts(tmp_path, monkeypatch, data_dir, capsys, request):
    monkeypatch.setenv("EMBEDMILL_DATA_DIR", str(data_dir))
    texts = corpus.short(TEXTS)
    source, sink = tmp_path / "corpus.jsonl", tmp_path / "vectors"
    bench.write(source, texts)
    run = context.Run()
    with ExitStack() as stack:
        mill = context.open_mill(stack, "fp32", EMBEDMILL_CONCURRENCY=str(run.cores))
        ceilings = [SAMPLE / context.ceiling_s(run, texts[:SAMPLE])]
        first = bench.reindex(mill, source, sink)
        ceilings.append(SAMPLE / context.ceiling_s(run, texts[-SAMPLE:]))
        again = bench.reindex(mill, source, sink)
    rate, again_s = TEXTS / first.seconds, again.report["elapsed_s"]
    lines = [
        f"{TEXTS:,} texts: {rate:.0f} texts/s, {rate / (sum(ceilings) / 2):.2f} of the ceiling",
        f"at most {first.client_mb:.0f} MB in the client, {first.redis_mb:.0f} MB in Redis",
        f"a second run: {again_s:.1f} s, {TEXTS / again_s:,.0f} texts/s, {again.client_mb:.0f} MB",
    ]
    with capsys.disabled():
        request.config.get_terminal_writer().line("\n" + "\n".join(lines))
    assert first.report["added"] == again.report["skipped"] == TEXTS
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in sink.glob("*.parquet")) == TEXTS
    assert max(first.client_mb, again.client_mb) < CLIENT_MB
    assert first.redis_mb < REDIS_MB
