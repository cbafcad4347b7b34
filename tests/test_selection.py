"""The best checkpoint is chosen without the truth: no copy, no invention wins, pairs do not matter, a resume agrees."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil

import pytest
import torch
from tiny import TINY

import gantk
from gantk.data.dataset import Data
from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.method import Geometry, Method
from gantk.metrics.baselines import IntensityMap
from gantk.metrics.checkpoint_choice import Choice, Criterion, OnPairs, Sampled, criterion_for
from gantk.recipe.load import load_recipe
from gantk.runs import checkpoint
from gantk.runs.folder import RunFolder
from gantk.training import loop as training

CPU = Runtime(torch.device("cpu"), "fp32", False)
KNOWN: dict[str, dict] = {}


class Translates(Method):
    """Whatever it is told to, by the domain that comes out."""

    def __init__(self, geometry, **ways):
        super().__init__(geometry)
        self.ways = ways

    def translate(self, image, to):
        return self.ways[to](image)


class Pairs(Translates):
    paired = True


class Samples(Method):
    reads = ("image",)
    scale = 1.0

    def sample(self, n, seed, labels=None):
        generator = torch.Generator().manual_seed(seed)
        return (0.2 * self.scale * torch.randn(n, 1, 32, 32, generator=generator) - 0.5).clamp(-1, 1)


def recipe(**data) -> gantk.Model:
    tables = copy.deepcopy(TINY)
    tables["data"] |= {"source": {"name": "phantom", "subjects": 10, "slices": 4}} | data
    tables["train"] |= {"steps": 400, "save_every": 200}
    return load_recipe(tables).check()


@pytest.fixture(scope="module")
def study() -> tuple:
    """(recipe, data, candidates): what could come out of a training, from a good translation to none."""
    model = recipe()
    data = Data.load(model.data, Translates)
    train = {letter: [r for r in data.training if r.domain == letter] for letter in "ab"}
    images = {letter: torch.stack([data.image(r) for r in records]) for letter, records in train.items()}
    pairs = [{k: data.image(r) for k, r in pair.items()} for pair in data.pairs("train")]
    ways = {
        "good": {
            "b": IntensityMap((p["a"], p["b"]) for p in pairs),
            "a": IntensityMap((p["b"], p["a"]) for p in pairs),
        },
        "copy": {to: lambda x: x.clone() for to in "ab"},
        "nearly a copy": {to: lambda x: 0.97 * x for to in "ab"},
        "collapsed": {to: lambda x, to=to: images[to].mean(0).expand(len(x), -1, -1, -1) for to in "ab"},
        "other patients": {to: lambda x, to=to: images[to][torch.arange(len(x)) % len(images[to])] for to in "ab"},
        "inverted": {to: lambda x: -x for to in "ab"},
        "noise": {to: lambda x: torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) for to in "ab"},
        "not finite": {to: lambda x: x * float("nan") for to in "ab"},
    }
    return model, data, ways


def judged(study: tuple, name: str, data: Data | None = None) -> dict:
    """A candidate's entry; those of the study's own data are computed once."""
    model, own, ways = study
    if data is None and name in KNOWN:
        return KNOWN[name]
    built = Translates(Geometry(2, (32, 32), own.channels, (), own.range), **ways[name])
    entry = criterion_for(model, data or own, built, CPU)()
    return entry if data is not None else KNOWN.setdefault(name, entry)


def best_of(study: tuple, *names: str) -> str:
    choice = Choice("")
    for step, name in enumerate(names):
        choice.add(step, judged(study, name))
    return names[choice.best]


def test_a_good_translation_wins_against_everything_that_is_none(study):
    names = list(study[2])
    assert best_of(study, *names) == best_of(study, *names[::-1]) == "good"


def test_what_is_no_translation_is_barred_or_scores_worse_and_says_why(study):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    good, same, alike, invented, broken = (
        judged(study, name) for name in ("good", "copy", "collapsed", "other patients", "not finite")
    )
    for key in ("a_to_b", "b_to_a"):
        assert f"{key}: the output is the input, nearly unchanged" in same["barred"]
        assert f"{key}: no nearer to the target domain than the input" in same["barred"]
    assert same["a_to_b"]["structure"] < 0.5 * good["a_to_b"]["structure"]
    assert same["a_to_b"]["cycle"] < good["a_to_b"]["cycle"]
    assert "b_to_a: the outputs are all alike" in alike["barred"]
    assert invented["a_to_b"]["kid_random"] < good["a_to_b"]["kid_random"] and invented["score"] > good["score"]
    assert broken["score"] is None and "not finite" in broken["barred"] and json.loads(json.dumps(broken)) == broken
    assert best_of(study, "not finite", "copy") == "copy" and best_of(study, "copy", "noise", "good") == "good"
    assert judged(study, "noise", data=study[1]) == judged(study, "noise")
    assert torch.equal(torch.get_rng_state(), state)


def test_the_choice_does_not_know_the_pairs(study, monkeypatch):
    model, data, _ = study
    before = {name: judged(study, name) for name in ("good", "copy")}
    shuffled = copy.copy(data)
    shuffled.splits = copy.copy(data.splits)
    for split, records in data.splits.items():
        if split != "train":
            names = [record.pair for record in records]
            shuffled.splits[split] = [
                dataclasses.replace(record, pair=other)
                for record, other in zip(records, names[1:] + names[:1], strict=True)
            ]

    def refused(*_):
        pytest.fail("the pairs were asked for, or an image of the test set was read")

    monkeypatch.setattr(Data, "pairs", refused)
    shuffled.splits["test"] = [dataclasses.replace(record, read=refused) for record in shuffled.splits["test"]]
    assert {name: judged(study, name, data=shuffled) for name in ("good", "copy")} == before


def test_paired_methods_are_chosen_by_their_validation_pairs(study):
    model, _, ways = study
    data = Data.load(model.data, Pairs)
    geometry = Geometry(2, (32, 32), data.channels, (), data.range)
    choice = None
    for step, name in enumerate(["copy", "good", "collapsed"]):
        criterion = criterion_for(model, data, Pairs(geometry, **ways[name]), CPU)
        assert isinstance(criterion, OnPairs)
        choice = choice or Choice(criterion.rule, criterion.higher)
        choice.add(step, criterion())
    assert choice.best == 1 and choice.state()["rule"] == "psnr on validation pairs"


def test_images_from_noise_are_judged_by_their_distance_unless_they_are_all_alike():
    model = recipe(domains=["T1"])
    data = Data.load(model.data, Samples)
    criterion = criterion_for(model, data, Samples(Geometry(2, (32, 32), data.channels, (), data.range)), CPU)
    assert isinstance(criterion, Sampled)
    entry = criterion()
    assert entry["score"] == entry["image"]["kid_random"] > 0 and "barred" not in entry
    criterion.method.scale = 0.01
    assert criterion()["barred"] == "image: the outputs are all alike"


def test_the_winner_has_no_bar_and_the_least_score_and_comes_first():
    choice = Choice("a rule")
    assert choice.best is None
    choice.add(1, {"score": None})
    assert choice.best == 1
    choice.add(2, {"score": 0.1, "barred": "a copy"})
    assert choice.best == 2
    for step, score in ((3, 0.7), (4, 0.5), (5, 0.5), (6, 0.6)):
        choice.add(step, {"score": score})
    assert choice.best == 4
    choice.higher = True
    assert choice.best == 3


@pytest.fixture
def fake_scores(monkeypatch):
    """Gives the saves of the trainings that follow these scores; an error instead of a score is raised."""

    def give(*scores: float | Exception) -> None:
        left = list(scores)

        class Fake(Criterion):
            rule = "as given"

            def __init__(self, *parts):
                pass

            def __call__(self):
                score = left.pop(0)
                if isinstance(score, Exception):
                    raise score
                return {"score": score}

        monkeypatch.setattr(training, "criterion_for", Fake)

    return give


def test_the_best_checkpoint_outlives_newer_ones(tiny_recipe, tmp_path, fake_scores):
    fake_scores(0.9, 0.2, 0.5, 0.4, 0.3)
    tiny_recipe["train"] |= {"steps": 5, "save_every": 1, "keep": 1}
    run = gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    assert checkpoint.steps_saved(run.checkpoints) == [2, 5]
    assert run.best().name == "step-000002" and run.latest().name == "step-000005"
    best = json.loads((run.path / "best.json").read_text())
    assert (best["step"], best["rule"]) == (2, "as given")
    assert [row["score"] for row in best["table"]] == [0.9, 0.2, 0.5, 0.4, 0.3]


def test_data_too_few_to_judge_cost_no_training(tiny_recipe, tmp_path, fake_scores):
    fake_scores(*[UserError("1 image is no set")] * 2)
    tiny_recipe["train"]["steps"] = 4
    run = gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    best = json.loads((run.path / "best.json").read_text())
    assert best["step"] == 4 and best["table"][0]["score"] is None
    assert best["table"][0]["barred"].startswith("1 image is no set")


@pytest.mark.parametrize("point", ["before the checkpoint", "before best.json", "before the former best is dropped"])
def test_a_kill_in_a_save_loses_neither_the_best_nor_the_newest(tiny_recipe, tmp_path, monkeypatch, fake_scores, point):
    """The third save beats the first: killed in it, the run holds what best.json names, and a resume agrees."""
    tiny_recipe["train"] |= {"steps": 4, "save_every": 1, "keep": 1}
    quiet = {"device": "cpu", "say": lambda line: None}
    fake_scores(0.5, 0.6, 0.1, 0.2)
    whole = gantk.run(tiny_recipe, out=tmp_path / "whole", **quiet)

    class Killed(BaseException):
        pass

    def killing(function, when):
        def call(*args, **kwargs):
            if when(*args):
                raise Killed
            return function(*args, **kwargs)

        return call

    fake_scores(0.5, 0.6, 0.1, 0.1 if point == "before the checkpoint" else 0.2, 0.2)
    with monkeypatch.context() as patches:
        if point == "before the checkpoint":
            patches.setattr(checkpoint, "save", killing(checkpoint.save, lambda folder, step, *_: step == 3))
        elif point == "before best.json":
            write = killing(
                RunFolder.write_json, lambda run, name, content: name == "best.json" and content["step"] == 3
            )
            patches.setattr(RunFolder, "write_json", write)
        else:
            calls = []
            prune = killing(training.checkpoint.prune, lambda *args: calls.append(args) or len(calls) == 6)
            patches.setattr(training.checkpoint, "prune", prune)
        with pytest.raises(Killed):
            gantk.run(tiny_recipe, out=tmp_path / "run", **quiet)
    run = RunFolder(tmp_path / "run")
    assert run.best().is_dir() and run.latest().is_dir()
    gantk.resume(run.path, **quiet)
    assert checkpoint.steps_saved(run.checkpoints) == checkpoint.steps_saved(whole.checkpoints) == [3, 4]
    assert (run.path / "best.json").read_bytes() == (whole.path / "best.json").read_bytes()


def test_a_resumed_run_chooses_as_if_it_had_never_stopped(tiny_recipe, tmp_path):
    tiny_recipe["train"] |= {"steps": 6, "save_every": 2, "keep": 3}
    quiet = {"device": "cpu", "say": lambda line: None}
    whole = gantk.run(tiny_recipe, out=tmp_path / "whole", **quiet)
    run = RunFolder(shutil.copytree(whole.path, tmp_path / "run"))
    for step in (4, 6):
        shutil.rmtree(checkpoint.path_of(run.checkpoints, step))
    gantk.resume(run.path, **quiet)
    assert (run.path / "best.json").read_bytes() == (whole.path / "best.json").read_bytes()
    lines = [[line for line in each.read_log() if "selection" in line] for each in (run, whole)]
    assert lines[0] == lines[1] and [line["step"] for line in lines[0]] == [2, 4, 6]
    assert {"kid_random", "structure", "cycle"} == lines[0][0]["selection"]["a_to_b"].keys()
