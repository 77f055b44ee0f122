"""The simulated fleet against what can be reckoned by hand, and the plot of it."""

from dataclasses import replace

import pytest

from support.benchmark import benchmark

curves, fleet, fleet_model = map(benchmark, ("curves", "fleet", "fleet_model"))

NOTHING = fleet_model.Step(server_s=0.0, in_bytes=0.0, out_bytes=0.0)
FREE = fleet_model.Fleet(
    children=50,
    embed_s=0.25,
    overhead_s=0.0,
    work=NOTHING,
    client=NOTHING,
    network_bit_s=1e10,
    trip_s=0.0,
)


def step(server_s=0.0, in_bytes=0.0, out_bytes=0.0):
    return fleet_model.Step(server_s=server_s, in_bytes=in_bytes, out_bytes=out_bytes)


def test_a_fleet_that_waits_for_nothing_embeds_all_the_time():
    assert fleet_model.simulate(FREE).efficiency == pytest.approx(1.0, abs=0.02)


def test_round_trips_and_what_a_worker_spends_count_once_a_chunk():
    slow = replace(FREE, children=1, trip_s=0.05, overhead_s=0.1)
    assert fleet_model.simulate(slow).efficiency == pytest.approx(0.25 / (0.25 + 0.05 + 0.1), rel=0.03)


@pytest.mark.parametrize(
    ("changes", "tightest", "chunks_per_s"),
    [
        ({"work": step(server_s=0.006), "client": step(server_s=0.004)}, "Redis's core", 100),
        ({"work": step(in_bytes=6e6), "client": step(in_bytes=6.5e6)}, "network in", 100),
        ({"work": step(out_bytes=6e6), "client": step(out_bytes=6.5e6)}, "network out", 100),
        ({"shared_s": 0.01}, "shared core", 100),
    ],
)
def test_a_fleet_makes_no_more_than_its_tightest_station_and_names_it(changes, tightest, chunks_per_s):
    outcome = fleet_model.simulate(replace(FREE, children=200, **changes))
    assert outcome.tightest == tightest
    assert outcome.chunks_per_s == pytest.approx(chunks_per_s, rel=0.1)
    assert outcome.efficiency == pytest.approx(outcome.chunks_per_s * 0.25 / 200)


def test_beats_of_very_many_workers_take_time_of_the_server():
    beating = replace(FREE, workers=1_000, beat_s=0.001)
    assert fleet_model.simulate(beating).busy["Redis's core"] == pytest.approx(0.5, rel=0.1)


def test_the_same_seed_gives_the_same():
    busy = replace(FREE, work=step(server_s=0.004))
    assert fleet_model.simulate(busy, seed=3) == fleet_model.simulate(busy, seed=3)
    assert fleet_model.simulate(busy, seed=3) != fleet_model.simulate(busy, seed=4)


def test_what_a_chunk_of_another_size_costs_is_on_the_line_through_two_that_were_measured():
    def steps(texts, server_s):
        cost = fleet.Cost(server_s=server_s)
        return fleet.Steps(submit=cost, work=cost, read=cost, delete=cost, idle=cost, texts=texts)

    found = steps(10, 2e-4).at(30, steps(50, 6e-4))
    assert found.texts == 30
    assert found.work.server_s == pytest.approx(4e-4)


def test_the_plot_has_a_line_and_a_name_for_each():
    drawn = curves.svg({"1 & 2": [(1, 1.0), (1_000, 0.5)], "b": [(1, 1.0), (10, 0.9)]}, title="share", x="children")
    assert drawn.count("<polyline") == 2
    assert "1 &amp; 2" in drawn
    assert ">1,000</text>" in drawn
