"""Closed-loop and open-loop load of one text a request on a server of OpenAI's route; a process of its own.

    python http_load.py PORT MODEL CLIENTS RATE      texts as JSON on stdin

RATE 0: each client sends its next request when the one before is answered. Otherwise requests are begun at that rate,
whatever is answered. Writes {"seconds", "latencies_ms", "statuses"} as JSON; latencies are those of answers with 200,
and status 0 is a connection that the server has lost.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any


class Connection:
    """One kept-alive HTTP connection. A client library would cost more of the two cores than either server."""

    def __init__(self, port: int, model: str) -> None:
        self._port = port
        self._model = model
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, text: str) -> int:
        """Send a text and give the status of the whole answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._streams
        body = json.dumps({"input": text, "model": self._model, "encoding_format": "float"}).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        (length,) = (int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        return int(lines[0].split()[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


class Load:
    """What was asked and how it went."""

    def __init__(self, port: int, model: str) -> None:
        self._idle: list[Connection] = []
        self._make = lambda: Connection(port, model)
        self.latencies_ms: list[float] = []
        self.statuses: Counter[int] = Counter()

    async def ask(self, text: str) -> None:
        connection = self._idle.pop() if self._idle else self._make()
        began_s = time.perf_counter()
        try:
            status = await connection.ask(text)
        except (OSError, asyncio.IncompleteReadError):  # the server's process ended
            self.statuses[0] += 1
            connection.close()
            return
        self.statuses[status] += 1
        if status == 200:
            self.latencies_ms.append((time.perf_counter() - began_s) * 1000)
        self._idle.append(connection)

    async def closed(self, texts: list[str], clients: int) -> None:
        waiting = iter(texts)

        async def client() -> None:
            for text in waiting:
                await self.ask(text)

        await asyncio.gather(*(client() for _ in range(clients)))

    async def open(self, texts: list[str], rate: float) -> None:
        began_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, text in enumerate(texts):
                await asyncio.sleep(max(0.0, began_s + number / rate - time.perf_counter()))
                group.create_task(self.ask(text))

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


async def main(port: int, model: str, clients: int, rate: float) -> dict[str, Any]:
    texts = json.load(sys.stdin)
    load = Load(port, model)
    began_s = time.perf_counter()
    await (load.open(texts, rate) if rate else load.closed(texts, clients))
    seconds = time.perf_counter() - began_s
    load.close()
    return {"seconds": seconds, "latencies_ms": load.latencies_ms, "statuses": load.statuses}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))))
