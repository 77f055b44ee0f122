"""What the benchmarks and `embedmill bench` compute, without measuring anything."""

import ast
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from embedmill_worker.cli.measure import corpus, pss
from embedmill_worker.cli.measure.load import Percentiles
from embedmill_worker.engine import load
from embedmill_worker.models import resolve
from support.benchmark import benchmark

chart, cpu, figures, limit, memory, standin = map(benchmark, ("chart", "cpu", "figures", "limit", "memory", "standin"))

HERE = Path(chart.__file__).parent


def rates(name, value, corpus="mixed", precision=""):
    """A figure of the throughput question."""
    return figures.of_rounds(
        [value], question="throughput", name=name, unit="texts/s", corpus=corpus, precision=precision
    )


@pytest.mark.parametrize("name", corpus.CORPORA)
def test_a_corpus_is_the_same_every_time_and_another_with_another_seed(name):
    make = corpus.CORPORA[name]
    texts = make(50)
    assert texts == make(50)
    assert make(20) == texts[:20]
    assert texts != make(50, seed=99)
    assert all(texts)


def test_the_multilingual_corpus_holds_seven_scripts_besides_latin_words():
    text = "".join(corpus.multilingual(300))
    blocks = {
        "Cyrillic": "Ѐӿ",
        "Greek": "ͰϿ",
        "Arabic": "؀ۿ",
        "Devanagari": "ऀॿ",
        "Han": "一鿿",
        "Hiragana": "ぁゟ",
        "Hangul": "가힣",
    }
    assert {name for name, (low, high) in blocks.items() if any(low <= char <= high for char in text)} == set(blocks)


def test_long_texts_are_longer_than_short_ones_ever_are():
    assert min(len(text.split()) for text in corpus.long(100)) >= 150
    assert {len(text.split()) for text in corpus.short(500)} == set(range(3, 15))


def test_ratios_are_taken_within_a_round_so_that_a_slow_moment_cancels_out():
    found = figures.ratios([100, 50, 90], [50, 25, 60], question="q", name="n")
    assert (found.value, found.low, found.high, found.unit) == (2.0, 1.5, 2.0, "×")


def test_ratios_of_unequal_rounds_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        figures.ratios([1, 2], [1], question="q", name="n")


@pytest.mark.parametrize(("value", "is_met"), [(0.90, True), (0.91, True), (0.89, False)])
def test_a_ratio_must_reach_its_target(value, is_met):
    figure = figures.of_rounds(
        [value], question="throughput", name="embedmill ÷ ceiling", corpus="mixed", precision="fp32", unit="×"
    )
    assert figures.target_of(figure).is_met(figure.value) is is_met
    assert ("**missed**" in figures.table([figure])) is not is_met
    (row,) = figures.report([figure], {}, {})["figures"]
    assert (row["target"], row["met"]) == ("≥ 0.9", is_met)


def test_a_bound_from_the_same_run_is_an_upper_one():
    figure = figures.Figure(question="latency", name="p99", value=9.0, low=8.0, high=9.5, unit="ms", bound=8.5)
    assert "≤ 8.5 **missed**" in figures.table([figure])


def test_a_figure_without_a_target_is_in_the_table_and_the_json():
    figure = rates("ceiling", 1234.5)
    assert "| ceiling | mixed |  | 1,234 texts/s | 1,234 to 1,234 |  |" in figures.table([figure])
    report = json.loads(json.dumps(figures.report([figure], {"cores": 2}, {"int8": "refused"})))
    assert report["figures"][0] == {
        "question": "throughput",
        "name": "ceiling",
        "value": 1234.5,
        "low": 1234.5,
        "high": 1234.5,
        "unit": "texts/s",
        "corpus": "mixed",
    }
    assert report["skipped"] == {"int8": "refused"}


def test_the_slope_is_that_of_a_line_through_noise():
    noisy = [(float(s), 100 + 0.002 * s + (0.1 if s % 2 else -0.1)) for s in range(600)]
    assert memory.slope(noisy) == pytest.approx(0.002, rel=0.01)


def test_the_plot_has_ours_first_and_the_others_by_speed():
    found = [
        rates("slow", 5.0),
        rates("ceiling", 100.0),
        rates("fast & good", 50.0),
        rates("embedmill", 95.0, precision="fp32"),
        rates("embedmill", 900.0, corpus="short", precision="fp32"),
    ]
    names = [name for name, _ in chart.bars(found, "mixed")]
    assert names == ["embedmill, fp32", "raw ONNX Runtime, the ceiling", "fast & good", "slow"]
    drawn = chart.svg(found, "a machine")
    assert drawn.count("<rect") == 1 + len(found)
    assert "fast &amp; good" in drawn


def test_percentiles_lie_between_neighbours():
    found = Percentiles.of([float(i) for i in range(101)])
    assert (found.p50, found.p95, found.p99) == (50.0, 95.0, 99.0)
    with pytest.raises(ValueError, match="at least one value"):
        Percentiles.of([])


def test_a_tree_s_memory_is_that_of_all_its_processes(tmp_path):
    for pid, children, kib in ((1, "2 3", 1000), (2, "", 500), (3, "4", 500), (4, "", 48), (9, "", 7777)):
        task = tmp_path / str(pid) / "task" / str(pid)
        task.mkdir(parents=True)
        (task / "children").write_text(children)
        (tmp_path / str(pid) / "smaps_rollup").write_text(f"Rss: 9999 kB\nPss:  {kib} kB\nPss_Dirty: 1 kB\n")
    assert sorted(pss.tree(1, tmp_path)) == [1, 2, 3, 4]
    assert pss.tree_mb(1, tmp_path) == pytest.approx(2048 * 1024 / 1e6)


def test_a_process_that_has_ended_takes_no_memory(tmp_path):
    assert pss.tree_mb(1, tmp_path) == 0


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        (
            "main (app.py:1);work (embedmill_worker/jobs/processor.py:9);"
            "run (embedmill_worker/engine/transformer/session.py:80)",
            "graph",
        ),
        ("work (embedmill_worker/jobs/processor.py:9);pack_reply (embedmill/protocol/chunks.py:2)", "codec"),
        ("loop (celery/worker.py:1);poll (kombu/eventio.py:1)", cpu.REST),
    ],
)
def test_a_sample_counts_for_the_innermost_part(stack, part):
    assert cpu.part_of(stack) == part


@pytest.mark.parametrize("script", [HERE / "ceiling.py", *sorted((HERE / "peers").glob("*.py"))], ids=lambda p: p.name)
def test_what_we_are_compared_with_knows_nothing_of_us(script):
    modules = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    assert modules
    assert not [name for name in modules if name.startswith("embedmill")]


def test_every_peer_is_pinned():
    lines = [line for line in (HERE / "peers.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert all(re.fullmatch(r"[a-z-]+(\[[a-z]+\])?==[0-9.]+", line) for line in lines)


def test_a_stand_in_is_a_folder_that_is_exported_like_any_other_and_the_same_every_time(tmp_path):
    shape = standin.Shape(layers=1, hidden=24, vocabulary=900, max_tokens=64)
    folder = standin.write(shape, tmp_path / "one")
    again = standin.write(shape, tmp_path / "two")
    names = sorted(path.name for path in folder.iterdir())
    assert [(folder / name).read_bytes() for name in names] == [(again / name).read_bytes() for name in names]
    weights = np.fromfile(folder / "model.safetensors", dtype=np.uint8)
    header_bytes = int.from_bytes(weights[:8].tobytes(), "little")
    assert weights.size == 8 + header_bytes + 4 * shape.parameters
    engine = load(resolve(f"standin={folder}", data_dir=tmp_path / "data"), cache_dir=None)
    assert (engine.card.dimension, engine.card.max_tokens) == (24, 64)


def test_a_stand_in_s_tokenizer_knows_every_word_of_the_corpora(tmp_path):
    vocabulary = standin.pieces(900, seed=3)
    assert len(vocabulary) == len(set(vocabulary)) == 900
    tokenizer = Tokenizer.from_str(json.dumps(standin.tokenizer(vocabulary)))
    texts = corpus.multilingual(200)
    ids = [tokenizer.encode(text).ids for text in texts]
    assert max(map(max, ids)) < 900
    assert sum(row.count(vocabulary.index("<unk>")) for row in ids) == 0


@pytest.mark.parametrize(("name", "millions"), [("MiniLM-L6", 22.7), ("multilingual-MiniLM-L12", 117.7), ("base", 109)])
def test_shapes_have_the_parameters_of_what_they_are_named_after(name, millions):
    assert standin.SHAPES[name].parameters / 1e6 == pytest.approx(millions, rel=0.01)


def test_a_limit_is_a_group_that_goes_with_its_block(tmp_path, monkeypatch):
    (tmp_path / "memory.limit_in_bytes").touch()
    monkeypatch.setattr(type(tmp_path), "rmdir", shutil.rmtree)  # a real group's files go with it
    with limit.group(1500, tmp_path) as own:
        assert (own / "memory.limit_in_bytes").read_text() == "1500000000"
    assert not own.exists()
