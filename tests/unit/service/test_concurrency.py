"""How many CPUs a worker may use."""

import os

import pytest

from embedmill_worker.cpu import quota_cpus, usable_cpus


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


V1 = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "5000 100000\n"}, 0.05),
        ({"cpu.max": ""}, None),
        ({"cpu.max": "200000 0\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({V1[0]: "-1\n", V1[1]: "100000\n"}, None),
        ({V1[0]: "400000\n", V1[1]: "100000\n"}, 4.0),
        ({V1[0]: "400000\n"}, None),
        ({"cpu.max": "100000 100000\n", V1[0]: "400000\n", V1[1]: "100000\n"}, 1.0),
    ],
)
def test_the_quota_is_read_from_either_version_of_cgroups(tmp_path, files, cpus):
    assert quota_cpus(write(tmp_path, files)) == cpus


@pytest.mark.parametrize(
    ("affinity", "quota", "usable"),
    [
        (4, "max 100000", 4),
        (4, "200000 100000", 2),
        (2, "800000 100000", 2),
        (4, "350000 100000", 3),
        (1, "50000 100000", 1),
    ],
)
def test_the_smaller_of_affinity_and_quota_counts_in_whole_cpus(tmp_path, monkeypatch, affinity, quota, usable):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    assert usable_cpus(write(tmp_path, {"cpu.max": quota})) == usable
