"""The best checkpoint is chosen without the truth: no copy, no invention wins, pairs do not matter, a resume agrees."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from test_evaluation import Samples
from tiny import TINY

import gantk
from gantk.data.dataset import Data
from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.method import Geometry, Method
from gantk.metrics.baselines import IntensityMap
from gantk.metrics.checkpoint_choice import Choice, Criterion
from gantk.metrics.evaluate import Scorer
from gantk.recipe.load import load_recipe
from gantk.runs import checkpoint
from gantk.runs.folder import RunFolder
from gantk.training import loop as training

QUIET = {"device": "cpu", "say": lambda line: None}


class Translates(Method):
    """Whatever it is told to, by the domain that comes out."""

    def __init__(self, geometry, **ways):
        super().__init__(geometry)
        self.ways = ways

    def translate(self, image, to):
        return self.ways[to](image)


class Pairs(Translates):
    paired = True


def entry_of(kind: type, model: gantk.Model, data: Data, ways: dict) -> tuple[Criterion, dict]:
    method = kind(Geometry(2, (32, 32), data.channels, (), data.range), **ways)
    criterion = Criterion(Scorer(model, data, method, Runtime(torch.device("cpu"), "fp32", False)))
    return criterion, criterion()


def recipe(**data) -> gantk.Model:
    tables = copy.deepcopy(TINY)
    tables["data"] |= {"source": {"name": "phantom", "subjects": 10, "slices": 4}} | data
    return load_recipe(tables).check()


@pytest.fixture(scope="module")
def study() -> tuple:
    """(recipe, data, candidates): what could come out of a training, from a good translation to none."""
    model = recipe()
    data = Data(model.data, Translates)
    train = {letter: [r for r in data.training if r.domain == letter] for letter in "ab"}
    images = {letter: torch.stack([data.image(r) for r in records]) for letter, records in train.items()}
    pairs = [{k: data.image(r) for k, r in pair.items()} for pair in data.pairs("train")]
    ways = {
        "good": {
            "b": IntensityMap((p["a"], p["b"]) for p in pairs),
            "a": IntensityMap((p["b"], p["a"]) for p in pairs),
        },
        "copy": {to: lambda x: x.clone() for to in "ab"},
        "collapsed": {to: lambda x, to=to: images[to].mean(0).expand(len(x), -1, -1, -1) for to in "ab"},
        "other patients": {to: lambda x, to=to: images[to][torch.arange(len(x)) % len(images[to])] for to in "ab"},
        "inverted": {to: lambda x: -x for to in "ab"},
        "noise": {to: lambda x: torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) for to in "ab"},
    }
    return model, data, ways


def test_a_good_translation_wins_against_everything_that_is_none(study):
    model, data, ways = study
    state = torch.get_rng_state()
    entries = {name: entry_of(Translates, model, data, way)[1] for name, way in ways.items()}
    assert torch.equal(torch.get_rng_state(), state)
    assert min(entries, key=lambda name: entries[name]["score"]) == "good"
    assert entries["copy"]["a_to_b"]["structure"] < 0.5 * entries["good"]["a_to_b"]["structure"]
    assert entries["copy"]["a_to_b"]["cycle"] < entries["good"]["a_to_b"]["cycle"]
    assert entries["other patients"]["a_to_b"]["kid_random"] < entries["good"]["a_to_b"]["kid_random"]
    with pytest.raises(UserError, match="NaN"):
        entry_of(Translates, model, data, {to: lambda x: x * float("nan") for to in "ab"})


def test_the_choice_knows_neither_the_pairs_nor_the_test_images(study, monkeypatch):
    model, data, ways = study
    before = entry_of(Translates, model, data, ways["good"])[1]
    shuffled = copy.copy(data)
    shuffled.splits = copy.copy(data.splits)
    names = [record.pair for record in data.splits["validation"]]
    renamed = zip(data.splits["validation"], names[1:] + names[:1], strict=True)
    shuffled.splits["validation"] = [replace(record, pair=other) for record, other in renamed]

    def refused(*_):
        pytest.fail("an image of the test set was read")

    shuffled.splits["test"] = [replace(record, read=refused) for record in data.splits["test"]]
    assert entry_of(Translates, model, shuffled, ways["good"])[1] == before


def test_paired_methods_are_chosen_by_their_validation_pairs(study):
    model, _, ways = study
    data, choice = Data(model.data, Pairs), None
    for step, name in enumerate(["copy", "good", "collapsed"]):
        criterion, entry = entry_of(Pairs, model, data, ways[name])
        choice = choice or Choice(criterion.rule, criterion.higher)
        choice.add(step, entry)
    assert choice.best == 1 and choice.state()["rule"] == "psnr on validation pairs"


def test_images_from_noise_are_judged_by_their_distance():
    model = recipe(domains=["T1"])
    model.evaluate.metrics = None
    criterion, entry = entry_of(Samples, model, Data(model.data, Samples), {})
    assert entry["score"] == entry["image"]["kid_random"] > 0 and not criterion.higher


def test_the_winner_has_no_bar_and_the_least_score_and_comes_first():
    choice = Choice("a rule")
    assert choice.best is None
    choice.add(1, {"score": None})
    assert choice.best == 1
    choice.add(2, {"score": 0.1, "barred": "a copy"})  # as versions before wrote
    assert choice.best == 2
    for step, score in ((3, 0.7), (4, 0.5), (5, 0.5), (6, 0.6)):
        choice.add(step, {"score": score})
    assert choice.best == 4
    choice.higher = True
    assert choice.best == 3


def test_the_best_checkpoint_outlives_newer_ones(tiny_recipe, tmp_path, monkeypatch):
    left = [0.9, 0.2, UserError("1 image is no set"), 0.4, 0.3]  # too few images to judge cost no training

    class Fake:
        rule, higher = "as given", False

        def __init__(self, scorer):
            pass

        def __call__(self):
            score = left.pop(0)
            if isinstance(score, Exception):
                raise score
            return {"score": score}

    monkeypatch.setattr(training, "Criterion", Fake)
    tiny_recipe["train"] |= {"steps": 5, "save_every": 1, "keep": 1}
    run = gantk.run(tiny_recipe, out=tmp_path / "run", **QUIET)
    assert checkpoint.steps_saved(run.checkpoints) == [2, 5]
    assert run.best().name == "step-000002" and run.latest().name == "step-000005"
    best = json.loads((run.path / "best.json").read_text())
    assert (best["step"], best["rule"]) == (2, "as given")
    assert [row["score"] for row in best["table"]] == [0.9, 0.2, None, 0.4, 0.3]
    assert best["table"][2]["barred"].startswith("1 image is no set")


def test_a_resumed_run_chooses_as_if_it_had_never_stopped(tiny_recipe, tmp_path):
    tiny_recipe["train"] |= {"steps": 6, "save_every": 2, "keep": 3}
    whole = gantk.run(tiny_recipe, out=tmp_path / "whole", **QUIET)
    run = RunFolder(shutil.copytree(whole.path, tmp_path / "run"))
    for step in (4, 6):
        shutil.rmtree(checkpoint.path_of(run.checkpoints, step))
    gantk.resume(run.path, **QUIET)
    assert (run.path / "best.json").read_bytes() == (whole.path / "best.json").read_bytes()
    lines = [[line for line in each.read_log() if "selection" in line] for each in (run, whole)]
    assert lines[0] == lines[1] and [line["step"] for line in lines[0]] == [2, 4, 6]
    assert {"kid_random", "structure", "cycle"} == lines[0][0]["selection"]["a_to_b"].keys()
