"""CPU time that HTTP servers and frameworks take for a request whose answer is ready: what the gateway could stand on.

python benchmarks/run.py servers
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from context import Run, say
from figures import Figure, of_rounds
from gateway import Server, free_port, running
from peer import SCRIPTS, PeerError, environment

#: Requests of one load are this many times the texts of a round: an answer takes well under a tenth of a millisecond.
TIMES = 5

UVICORN = "uvicorn --no-access-log --log-level error --port {port}"
GRANIAN = "granian --no-access-log --log-level error --loop uvloop --port {port}"

#: Title → module and arguments.
SERVERS = {
    "uvicorn (httptools, uvloop), no framework": f"{UVICORN} --http httptools --loop uvloop asgi_apps:bare",
    "uvicorn (httptools, uvloop), Starlette": f"{UVICORN} --http httptools --loop uvloop asgi_apps:starlette",
    "uvicorn (httptools, uvloop), FastAPI": f"{UVICORN} --http httptools --loop uvloop asgi_apps:fast",
    "uvicorn (h11, asyncio), no framework": f"{UVICORN} --http h11 --loop asyncio asgi_apps:bare",
    "granian, ASGI, no framework": f"{GRANIAN} --interface asgi asgi_apps:bare",
    "granian, its own interface": f"{GRANIAN} --interface rsgi asgi_apps:rsgi",
    "hypercorn (uvloop), no framework": "hypercorn --worker-class uvloop --bind 127.0.0.1:{port} asgi_apps:bare",
}


def ask(run: Run) -> list[Figure]:
    """Return the milliseconds of CPU a request of each."""
    if run.peers_python is None:
        return []
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for title, arguments in SERVERS.items():
            port = free_port()
            command = [str(run.peers_python), "-m", *arguments.format(port=port).split()]
            try:
                servers[title] = stack.enter_context(running(command, environment({}), port, cwd=Path(SCRIPTS)))
            except PeerError as error:
                run.skip(title, str(error))
        found: dict[str, list[float]] = {title: [] for title in servers}
        for _ in range(run.rounds):
            for title, server in servers.items():
                found[title].append(server.load(["x"] * run.texts * TIMES).cpu_ms)
    for title, values in found.items():
        say(f"  {title:45} {sorted(values)[len(values) // 2]:.3f} ms")
    return [of_rounds(values, name=title, unit="ms", question="servers") for title, values in found.items()]
