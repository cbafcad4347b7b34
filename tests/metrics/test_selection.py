"""The best checkpoint is chosen on validation images: no copy and no collapse wins, a resume agrees."""

import copy
import os
import signal
from dataclasses import replace

import pytest
import torch
from scorers import CPU, Samples, scorer_of
from tiny import TINY, read_json, train_without_scores

import gantk
from gantk import Data
from gantk.errors import Interrupted
from gantk.method import Geometry, Method
from gantk.metrics.baselines import IntensityMap
from gantk.metrics.evaluate import Scorer
from gantk.metrics.validation import Validation
from gantk.recipe.load import load_recipe
from gantk.runs import checkpoint
from gantk.runs.results import Choice
from gantk.training.assemble import Parts

QUIET = {"device": "cpu", "say": lambda line: None}


class Translates(Method):
    """Whatever it is told to, by the domain that comes out."""

    ways: dict

    def translate(self, image, to):
        return self.ways[to](image)


class Pairs(Translates):
    paired = True


WAYS = ("good", "copy", "collapsed", "noise", "nan")


def score_of(
    model, data: Data, ways: dict, kind: type = Translates
) -> tuple[Validation, float | None]:
    """The validation of the method that translates so, and its checkpoint's score."""
    method = kind(Geometry(2, (32, 32), data.channels, (), data.range))
    method.ways = ways
    validation = Validation(Scorer(model, data, method, CPU))
    return validation, validation.checkpoint_score(validation.validate())


def without_pairs(data: Data) -> Data:
    """The same data, of whose validation images no pairs are known; its test images are not read."""

    def refused(*_):
        pytest.fail("an image of the test set was read")

    found = copy.copy(data)
    found.splits = copy.copy(data.splits)
    found.splits["validation"] = [replace(r, pair=None) for r in data.splits["validation"]]
    found.splits["test"] = [replace(r, read=refused) for r in data.splits["test"]]
    return found


@pytest.fixture(scope="module")
def study() -> tuple:
    """(recipe, data, ways): what could come out of a training, from a good translation to none."""
    tables = copy.deepcopy(TINY)
    tables["data"]["source"] |= {"subjects": 10, "slices": 4}
    tables["data"]["split"] = {"test": 0.2, "validation": 0.4}
    model = load_recipe(tables).check()
    data = Data(model.data, Translates)
    pairs = [{k: data.image(r) for k, r in pair.items()} for pair in data.pairs("train")]
    means = {
        letter: torch.stack([data.image(r) for r in data.training if r.domain == letter]).mean(0)
        for letter in "ab"
    }
    seeded = torch.Generator().manual_seed(0)
    ways = {
        "good": {to: IntensityMap((p[own], p[to]) for p in pairs) for own, to in ("ab", "ba")},
        "copy": {to: lambda x: x.clone() for to in "ab"},
        "collapsed": {to: lambda x, to=to: means[to].expand(len(x), -1, -1, -1) for to in "ab"},
        "noise": {to: lambda x: torch.randn(x.shape, generator=seeded) for to in "ab"},
        "nan": {to: lambda x, to=to: x * torch.nan if to == "a" else x for to in "ab"},
    }
    return model, data, ways


@pytest.mark.parametrize(
    ("kind", "pairs", "rule"),
    [
        (
            Translates,
            True,
            "highest PSNR on 16 validation pairs of 4 patients, the mean of all directions",
        ),
        (Translates, False, "look most like real ones (KID, the mean of all directions)"),
        (Pairs, True, "highest PSNR on 16 validation pairs of 4 patients"),
    ],
)
def test_good_translations_win_over_all_that_are_none(study, kind, pairs, rule):
    model, data, ways = study
    data = Data(model.data, kind) if kind is Pairs else data
    state = torch.get_rng_state()
    known = data if pairs else without_pairs(data)
    found = {name: score_of(model, known, ways[name], kind) for name in WAYS}
    choice = Choice(higher_is_better=bool(found["good"][0].pairs))
    for step, (_, score) in enumerate(found.values()):
        choice.add(step, score)

    assert rule in found["good"][0].rule
    assert choice.step == 0
    assert found["nan"][1] is None  # of one direction only
    assert torch.equal(torch.get_rng_state(), state)


def test_images_from_noise_are_chosen_by_their_distance():
    validation = Validation(scorer_of(Samples, split={"test": 0.2, "validation": 0.6}))
    scores = validation.validate()

    assert validation.checkpoint_score(scores) == scores["image"]["kid_random"] > 0
    assert not validation.pairs


def test_no_checkpoint_is_chosen_by_training_images(tiny_recipe, tmp_path):
    tiny_recipe["evaluate"] |= {"metrics": ["kid"]}
    run = gantk.Run(train_without_scores(tiny_recipe, tmp_path / "run"))

    assert not any("validation" in line for line in run.log)
    best = read_json(run.path / "best.json")
    assert best["rule"] == "the newest, as too few images are held out for validation"
    assert best["step"] == run.steps[-1]


def test_the_best_checkpoint_outlives_newer_ones(tiny_recipe, tmp_path, monkeypatch):
    scores = [0.9, 0.2, None, 0.4, 0.3]  # too few images to judge cost no training
    left = [*scores]
    monkeypatch.setattr(Validation, "pairs", [])
    monkeypatch.setattr(Validation, "checkpoint_score", lambda self, validation: left.pop(0))
    tiny_recipe["train"] |= {"steps": 5, "save_every": 1, "keep": 1}
    run = gantk.Run(train_without_scores(tiny_recipe, tmp_path / "run"))

    assert checkpoint.steps_saved(run.checkpoints) == [2, 5]
    assert run.best().name == "step-000002"
    assert run.latest().name == "step-000005"
    best = read_json(run.path / "best.json")
    assert best["step"] == 2
    assert [row["score"] for row in best["table"]] == scores


@pytest.mark.quick_cases("1")
@pytest.mark.parametrize("at", [1, 3])
def test_an_interruption_has_no_say_in_which_save_is_used(tiny_recipe, tmp_path, monkeypatch, at):
    tiny_recipe["train"] |= {
        "save_every": 2,
        "keep": 1,
        "ema": 0.0,
        "optimizer": {"name": "adam", "lr": 0.0},
    }
    tiny_recipe["evaluate"]["checkpoint"] = "best"  # of saves that are all alike the first
    left = gantk.Run(train_without_scores(tiny_recipe, tmp_path / "left"))
    batch_at = Parts.batch_at

    def stopped(self, step, stage):
        if step == at - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return batch_at(self, step, stage)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Parts, "batch_at", stopped)
        train_without_scores(tiny_recipe, tmp_path / "run")

    run = gantk.Run(tmp_path / "run")

    assert checkpoint.steps_saved(run.checkpoints) == [*range(2, at, 2), at]
    assert run.inference_checkpoint().name == ("step-000001" if at == 1 else "step-000002")

    with gantk.training(run.path, **QUIET) as again:
        again.fit()
    for name in ("best.json", "checkpoints/step-000004/weights.safetensors", "samples/index.json"):
        assert (run.path / name).read_bytes() == (left.path / name).read_bytes()

    assert (
        checkpoint.steps_saved(run.checkpoints)
        == checkpoint.steps_saved(left.checkpoints)
        == [2, 4]
    )
    clock = {"seconds": 0, "images_per_s": 0}
    assert [line | clock for line in run.log] == [line | clock for line in left.log]


STOPPING = """
import gantk
@gantk.hookimpl
def gantk_images_scored(run):
    raise KeyboardInterrupt
"""


def test_ctrl_c_while_scoring_says_that_training_is_complete(add_plugin, tiny_recipe, tmp_path):
    add_plugin("my-package", "my_stop", STOPPING)
    told = "the training is complete. To score them, run: gantk resume"
    with pytest.raises(Interrupted, match=told):
        gantk.run(tiny_recipe, out=tmp_path / "run", **QUIET)
