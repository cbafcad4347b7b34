"""Reconstructions: what a two-way method makes of an image there and back, in samples, scores and
the report.
"""

import pytest
from scorers import scorer_of

from gantk.method import Method


class Darkens(Method):
    """Translates to b by halving the distance from black, and back by adding a tenth."""

    def translate(self, image, to):
        return (image + 1) / 2 - 1 if to == "b" else image + 0.1


def test_cycle_error_is_the_distance_after_the_way_back():
    scorer = scorer_of(Darkens)
    shown = scorer.reals.scored_images([pair["a"] for pair in scorer.data.pairs("test")])
    rows = scorer.test().dump()["cycle"]["a_to_b"]

    expected = ((shown + 1) / 2 - 1 + 0.1 - shown).abs()
    inside = shown > -0.9
    assert rows["mae"]["value"] == pytest.approx(float(expected.mean()), abs=1e-6)
    assert rows["mae_foreground"]["value"] == pytest.approx(
        float(expected[inside].mean()), rel=0.02
    )
    assert rows["mae"]["images"] == len(shown)
    assert rows["mae"]["definition"].startswith("a_to_b_to_a/mae/fixed-range-2/")
