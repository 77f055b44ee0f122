"""One child against one child a core.

python benchmarks/run.py scaling
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from context import Run, interleave, open_mill
from figures import Figure, ratios

from embedmill.errors import EmbedError
from embedmill_worker.cli.measure import corpus
from embedmill_worker.cli.measure.load import bulk_s

CORPORA = ("mixed", "short")


def ask(run: Run) -> list[Figure]:
    """Return the speed of all cores' children divided by that of one."""
    figures: list[Figure] = []
    for precision in run.precisions:
        with ExitStack() as stack:
            try:
                one = open_mill(stack, precision, EMBEDMILL_CONCURRENCY="1")
                every = open_mill(stack, precision, EMBEDMILL_CONCURRENCY=str(run.cores))
            except EmbedError as error:
                run.skip(f"scaling, {precision}", str(error))
                continue
            for name in CORPORA:
                texts = corpus.CORPORA[name](run.texts // 2)
                ways = {f"{n} children": partial(bulk_s, m.client, texts) for n, m in ((1, one), (run.cores, every))}
                rates = interleave(f"scaling, {precision}, {name}", texts, run.rounds, ways)
                title = f"{run.cores} children ÷ 1 child"
                what = {"question": "scaling", "corpus": name, "precision": precision}
                figures.append(ratios(rates[f"{run.cores} children"], rates["1 children"], name=title, **what))
    return figures
