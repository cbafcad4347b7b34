"""The page about several ranks: made of its file alone, and a model that obeys its own formulae."""

from __future__ import annotations

import sys

import pytest
from tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from scaling_page import GPUS, Cluster, all_reduce, efficiency, page  # noqa: E402


def record() -> dict:
    ways = {"alone": [1.0, 1.0], "apart": [1.0, 1.0], "together": [1.25, 1.25]}
    return {
        "date": "2026-01-02",
        "command": "python benchmarks/scaling.py x",
        "recipe": "x",
        "set": [],
        "steps_per_round": 2,
        "machine": {"cpu": "a CPU", "cores": 2, "torch": "2.11", "precision": "fp32", "load": 0.1},
        "batch": 4,
        "bytes": 6_200_000,
        "seconds_per_step": ways,
        "bytes_per_step": {
            "cyclegan": {
                "size": [256, 256],
                "phases": {"g": {"bytes": 90e6, "every": 1}, "d": {"bytes": 20e6, "every": 2}},
            }
        },
    }


def test_the_page_tells_gains_and_shares_of_the_file():
    text = page(record())
    assert "after each backward pass | 1.25 [1.25, 1.25] | 1.60 [1.60, 1.60] | 0.20 [0.20, 0.20] |" in text
    assert "| cyclegan | 256 x 256 | g 90.0, d 20.0 | 100.0 |" in text  # a phase of every second step counts half
    assert all(f"\n| {gpus} |" in text for gpus in GPUS)


def test_a_ring_sends_twice_the_bytes_less_one_share():
    free = Cluster(share=1.0, hop_inside=0.0, hop_between=0.0)
    assert all_reduce(free.inside, 8, free) == pytest.approx(2 * 7 / 8)
    assert all_reduce(8 * free.between, 16, free) == pytest.approx(2 * 7 / 8 * 8 * free.between / free.inside + 1.0)


def test_efficiency_falls_with_more_gpus_and_rises_with_longer_steps():
    found = [efficiency(0.03, 113e6, gpus) for gpus in GPUS]
    assert found == sorted(found, reverse=True)
    assert all(0 < share < 1 for share in found)
    assert efficiency(0.1, 113e6, 64) > efficiency(0.01, 113e6, 64)
