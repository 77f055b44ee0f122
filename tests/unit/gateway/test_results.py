"""Forms of a result: what a gateway without pyarrow says, and parts that join to the whole."""

import asyncio
import json
import sys

import numpy as np
import pytest

from embedmill.reply import EmbeddingReply, Rejected
from embedmill_worker.gateway.apis import results
from embedmill_worker.gateway.refusals import Kind, RefusedError


def reply_of(count, rejected=()):
    return EmbeddingReply(
        vectors=np.arange(count * 3, dtype=np.float32).reshape(count, 3),
        token_counts=np.full(count, 300, np.uint32),
        truncated=np.zeros(count, np.bool_),
        rejected=tuple(Rejected(index=i, reason="too_long", detail="why") for i in rejected),
        model="m",
        fingerprint="f",
    )


def joined(reply, form):
    async def read():
        return b"".join([part async for part in results.parts(reply, form, 7)])

    return asyncio.run(read())


def test_a_gateway_without_pyarrow_refuses_arrow_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RefusedError, match="pyarrow") as caught:
        results.arrow_library()
    assert caught.value.kind is Kind.NOT_ACCEPTABLE
    assert joined(reply_of(2), results.RAW) == np.arange(6, dtype="<f4").tobytes()


@pytest.mark.parametrize("count", [0, 1, results.PART_ROWS, results.PART_ROWS + 1, 3 * results.PART_ROWS])
@pytest.mark.parametrize("rejected", [(), (0,), "all"])
def test_parts_join_to_the_whole(count, rejected):
    places = range(count) if rejected == "all" else [i for i in rejected if i < count]
    reply = reply_of(count, places)
    found = json.loads(joined(reply, results.JSON))
    kept = [i for i in range(count) if i not in set(places)]
    assert [row["index"] for row in found["data"]] == kept
    assert [row["embedding"] for row in found["data"]] == reply.vectors[kept].tolist()
    assert [one["index"] for one in found["rejected"]] == list(places)
    raw = joined(reply, results.RAW)
    assert raw == reply.vectors.tobytes()
    assert results.head(reply, results.RAW).headers["content-length"] == str(len(raw))
    assert results.usage(reply, 256) == 256 * count
