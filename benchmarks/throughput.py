"""Bulk, end to end through Redis and Celery, against the ceiling and against every peer.

python benchmarks/run.py throughput
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
from context import Run, ceiling_s, interleave, open_mills, say
from figures import Figure, of_rounds, ratios
from peer import Peer, PeerError, fastembed_folder, handwritten

from embedmill_worker.cli.local.stack import Mill
from embedmill_worker.cli.measure import corpus
from embedmill_worker.cli.measure.load import bulk_s

#: Corpora that the README shows, and others, which get fewer rounds and not every peer.
FIRST, SECOND = ("mixed", "short"), ("multilingual", "long")
SECOND_ROUNDS = 2

#: Texts of a corpus as a multiple of the run's, and texts on which a peer's best options are found.
SHARES = {"mixed": 1.0, "short": 2.0, "multilingual": 0.25, "long": 0.25}
TUNING_TEXTS = {"mixed": 150, "short": 300, "multilingual": 50, "long": 50}

DEFAULT = "fastembed, defaults"
TUNED = "fastembed, tuned"
HANDWRITTEN = "hand-written worker"

Ways = dict[str, Callable[[], float]]


def ask(run: Run) -> list[Figure]:
    """Return texts a second of every system, and ours divided by theirs."""
    figures: list[Figure] = []
    with ExitStack() as stack:
        mills = open_mills(stack, run)
        peers = open_peers(stack, run) if run.peers_python else {}
        for name in run.corpora or (*FIRST, *SECOND):
            is_first = name in FIRST
            texts = corpus.CORPORA[name](max(20, int(run.texts * SHARES[name])))
            ways: Ways = {_ours(precision): partial(bulk_s, m.client, texts) for precision, m in mills.items()}
            ways["ceiling"] = partial(ceiling_s, run, texts)
            ways |= peer_ways(run, peers, name, texts, mills)
            if not is_first:
                ways.pop(HANDWRITTEN, None)
            rates = interleave(name, texts, run.rounds if is_first else SECOND_ROUNDS, ways)
            if run.peers_python and is_first:
                rates |= defaults(run, texts)
            figures += figures_of(name, rates, mills)
    return figures


def figures_of(name: str, rates: dict[str, list[float]], mills: dict[str, Mill]) -> list[Figure]:
    """Turn the rounds' rates into figures."""
    what = {"question": "throughput", "corpus": name}
    found = [of_rounds(rates[_ours(p)], name="embedmill", precision=p, unit="texts/s", **what) for p in mills]
    others = [way for way in rates if way not in map(_ours, mills)]
    found += [of_rounds(rates[way], name=way, unit="texts/s", **what) for way in others]
    for precision in mills:
        for way in others:
            ours = rates[_ours(precision)][: len(rates[way])]
            found.append(ratios(ours, rates[way], name=f"embedmill ÷ {way}", precision=precision, **what))
    return found


def open_peers(stack: ExitStack, run: Run) -> dict[str, Peer]:
    """Start every peer that starts."""
    folder = stack.enter_context(fastembed_folder(run.files))
    cores, weights = str(run.cores), str(run.files.tokenizer.parent)
    assert run.peers_python is not None
    kept = str(run.peers_python.parent.parent / "openvino-model")
    transformers = "sentence_transformers_peer.py"
    starts = {
        TUNED: partial(Peer, run, "fastembed_peer.py", folder, cores),
        "libembedding-ng, tuned": partial(Peer, run, "libembedding_peer.py", folder, cores),
        "sentence-transformers, torch": partial(Peer, run, transformers, weights, "torch", cores, kept),
        "sentence-transformers, OpenVINO": partial(Peer, run, transformers, weights, "openvino", cores, kept),
        HANDWRITTEN: partial(handwritten, run, folder),
    }
    peers = {}
    for name, start in starts.items():
        say(f"  starting {name}")
        try:
            peers[name] = stack.enter_context(start())
        except PeerError as error:
            run.skip(name, str(error))
    return peers


def options_of(peer: str, cores: int) -> list[dict[str, object]]:
    """Return the options among which a peer's best are found."""
    if peer == TUNED:
        threads = [{"batch_size": size} for size in (1, 4, 16, 32)]
        return threads + [{"batch_size": size, "parallel": cores} for size in (1, 4, 16, 32)]
    if peer.startswith("libembedding"):
        return [{"batch_size": size, "pool": pool} for size in (1, 4, 16, 32) for pool in (False, True)]
    if peer.startswith("sentence-transformers"):
        return [{"batch_size": size} for size in (4, 8, 16, 32)]
    return [{}]


def peer_ways(run: Run, peers: dict[str, Peer], name: str, texts: Sequence[str], mills: dict[str, Mill]) -> Ways:
    """Find each peer's best options for these texts, and check that it gives our vectors."""
    trial = corpus.CORPORA[name](TUNING_TEXTS[name], seed=99)
    vector = longest_vector(mills, trial)
    ways: Ways = {}
    for peer_name, peer in peers.items():
        try:
            best = peer.tune(trial, options_of(peer_name, run.cores))
            say(f"  {name}: {peer_name} is fastest with {best or 'its only options'}")
            if vector is not None:
                peer.check(trial, vector, **best)
        except PeerError as error:
            run.skip(f"{peer_name}, {name}", str(error))
            continue
        ways[peer_name] = partial(peer.seconds, texts, **best)
    return ways


def longest_vector(mills: dict[str, Mill], texts: Sequence[str]) -> np.ndarray | None:
    """Return our fp32 vector of the longest text."""
    if "fp32" not in mills:
        return None
    return mills["fp32"].client.embed([max(texts, key=len)])[0]


def defaults(run: Run, texts: Sequence[str]) -> dict[str, list[float]]:
    """Measure fastembed as it comes, once: it is slow, and takes gigabytes, so its process ends at once."""
    with fastembed_folder(run.files) as folder, Peer(run, "fastembed_peer.py", folder, "0") as peer:
        rate = len(texts) / peer.seconds(texts)
    say(f"  {DEFAULT}: {rate:.1f} texts/s")
    return {DEFAULT: [rate]}


def _ours(precision: str) -> str:
    return f"embedmill {precision}"
