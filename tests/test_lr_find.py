"""The range test of learning rates: one rate an optimizer, from losses outside the game, and nothing is written."""

import json
import math
import re

import pytest

from gantk_lr_find.sweep import Sweep

FALLING = [1 / (1 + math.exp((k - 60) / 4)) for k in range(100)]  # steepest at the sixtieth of a hundred rates


@pytest.mark.parametrize(
    ("losses", "diverged", "suggested", "words"),
    [
        ({"cycle_a": FALLING, "adversarial_a": FALLING[::-1]}, None, 10 ** (-7 + 7 * 60 / 99), "descent of cycle_a"),
        ({"cycle_a": FALLING}, 1e-3, 1e-4, "a tenth of where it diverges"),
        ({"l1": [1.0] * 100}, None, None, "l1 does not fall"),
        ({"d_a": FALLING, "penalty_a": FALLING}, 1e-2, 1e-3, r"a tenth of the rate at which d_a \+ penalty_a diverges"),
        ({"adversarial": FALLING}, None, None, "never diverges"),
    ],
)
def test_a_rate_comes_from_losses_outside_the_game_or_from_where_they_diverge(losses, diverged, suggested, words):
    rates = [10 ** (-7 + 7 * k / 99) for k in range(100)]
    sweep = Sweep("phase", 2e-4, {"name": "adam"}, rates, losses, diverged)
    sweep.conclude()
    assert re.search(words, sweep.why)
    assert sweep.suggested == (suggested and pytest.approx(suggested, rel=0.3))


def test_run_lr_find_tries_rates_for_each_optimizer_and_writes_nothing(gantk, tiny_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gantk_lr_find.sweep.STEPS", 24)
    before = sorted(tmp_path.iterdir())
    done = gantk("run", tiny_file, "--device", "cpu", "--lr-find", "--json", "-")
    generators, discriminators = json.loads(done.out)
    assert sorted(tmp_path.iterdir()) == before and "game's score" in " ".join(done.err.split())
    assert generators["phase"] == "generators" and generators["now"] == 2e-4
    assert generators["by"] == ["cycle_a", "cycle_b", "local_ncc_b", "flat_region_b", "local_ncc_a", "flat_region_a"]
    assert generators["rates"][0] == pytest.approx(1e-7) and discriminators["by"] == ["d_a", "d_b"]
    first = generators["smoothed"]
    assert min(first) < first[0] and "*" in done.err  # some rate learns, and a curve shows it
    settings = [word for each in re.findall(r"--set '([^']*)'", done.err) for word in ("--set", each)]
    assert settings and gantk("run", tiny_file, "--set", "train.steps=0", *settings, "--out", "run").code == 0


def test_its_json_is_for_trials_only(gantk, tiny_file):
    refused = gantk("run", tiny_file, "--json", "-")
    assert refused.code == 2 and "--try, --lr-find" in refused.err
