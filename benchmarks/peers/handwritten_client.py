"""A client of the hand-written worker.

    python handwritten_client.py < requests      Environment: as of handwritten_worker.py

Request options: texts_per_task (default 64), in_flight: tasks sent ahead of the results read; default all, as a group.
"""

from __future__ import annotations

from collections import deque

import line_server
from celery import group
from handwritten_worker import embed


def together(tasks):
    return group(embed.s(texts) for texts in tasks).apply_async().get()


def in_window(tasks, in_flight):
    sent, results = deque(), []
    for texts in tasks:
        sent.append(embed.delay(texts))
        if len(sent) == in_flight:
            results.append(sent.popleft().get())
    return results + [result.get() for result in sent]


def embed_all(texts, texts_per_task=64, in_flight=0):
    tasks = [texts[i : i + texts_per_task] for i in range(0, len(texts), texts_per_task)]
    results, seconds = line_server.timed(lambda: in_window(tasks, in_flight) if in_flight else together(tasks))
    return [vector for result in results for vector in result], seconds


if __name__ == "__main__":
    embed_all(["warm"] * 8, texts_per_task=1)
    line_server.serve(embed_all)
