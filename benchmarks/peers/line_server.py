"""How every peer is talked to: a JSON object a line, texts and options in, seconds and one vector out.

The peer says {"ready": true} once it is loaded, and answers {"texts": […], …} with {"seconds": …, "vector": […]},
the vector of the longest text, by which one sees that it read as many tokens as all others. Imports nothing of
embedmill.
"""

from __future__ import annotations

import json
import os
import sys
import time


def serve(embed) -> None:
    """Answer until stdin ends; embed(texts, **options) gives one vector a text, in their order, and the seconds."""
    # Whatever libraries print goes to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answers.write('{"ready": true}\n')
    for line in sys.stdin:
        request = json.loads(line)
        texts = request.pop("texts")
        vectors, seconds = embed(texts, **request)
        assert len(vectors) == len(texts)
        longest = max(range(len(texts)), key=lambda i: len(texts[i]))
        answers.write(json.dumps({"seconds": seconds, "vector": [float(x) for x in vectors[longest]]}) + "\n")


def timed(run):
    """Return what run() gives, and the seconds it took."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start
