"""The best checkpoint is chosen without the truth: no copy, no invention wins, pairs do not matter,
a resume agrees.
"""

import copy
import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from scorers import CPU, Samples, scorer_of
from tiny import TINY

import gantk
from gantk.data.dataset import Data
from gantk.errors import Interrupted, UserError
from gantk.method import Geometry, Method
from gantk.metrics.checkpoint_choice import Criterion
from gantk.metrics.evaluate import Scorer
from gantk.metrics.pair_scores import IntensityMap
from gantk.recipe.load import load_recipe
from gantk.runs import checkpoint
from gantk.runs.results import Choice
from gantk.runs.schemas import LogLine
from gantk.training import loop as training

QUIET = {"device": "cpu", "say": lambda line: None}


class Translates(Method):
    """Whatever it is told to, by the domain that comes out."""

    ways: dict

    def translate(self, image, to):
        return self.ways[to](image)


class Pairs(Translates):
    paired = True


def criterion_of(kind: type, model, data: Data, ways: dict) -> Criterion:
    method = kind(Geometry(2, (32, 32), data.channels, (), data.range))
    method.ways = ways
    return Criterion(Scorer(model, data, method, CPU))


@pytest.fixture(scope="module")
def study() -> tuple:
    """(recipe, data, candidates): what could come out of a training, from a good translation to
    none.
    """
    tables = copy.deepcopy(TINY)
    tables["data"]["source"] |= {"subjects": 10, "slices": 4}
    model = load_recipe(tables).check()
    data = Data(model.data, Translates)
    train = {letter: [r for r in data.training if r.domain == letter] for letter in "ab"}
    images = {
        letter: torch.stack([data.image(r) for r in records]) for letter, records in train.items()
    }
    pairs = [{k: data.image(r) for k, r in pair.items()} for pair in data.pairs("train")]
    ways = {
        "good": {to: IntensityMap((p[own], p[to]) for p in pairs) for own, to in ("ab", "ba")},
        "copy": {to: lambda x: x.clone() for to in "ab"},
        "collapsed": {
            to: lambda x, to=to: images[to].mean(0).expand(len(x), -1, -1, -1) for to in "ab"
        },
        "other patients": {
            to: lambda x, to=to: images[to][torch.arange(len(x)) % len(images[to])] for to in "ab"
        },
        "noise": {
            to: lambda x: torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
            for to in "ab"
        },
    }
    return model, data, ways


def test_good_translations_win_over_all_that_are_none(study):
    model, data, ways = study
    state = torch.get_rng_state()
    entries = {name: criterion_of(Translates, model, data, way)() for name, way in ways.items()}

    assert torch.equal(torch.get_rng_state(), state)
    assert min(entries, key=lambda name: entries[name]["score"]) == "good"

    # each trick wins by one score alone
    good = entries["good"]["a_to_b"]
    copied = entries["copy"]["a_to_b"]

    assert copied["structure"] < 0.5 * good["structure"]
    assert copied["cycle"] < good["cycle"]
    assert entries["other patients"]["a_to_b"]["kid_random"] < good["kid_random"]


def test_the_choice_knows_neither_the_pairs_nor_the_test_images(study):
    model, data, ways = study
    shuffled = copy.copy(data)
    shuffled.splits = copy.copy(data.splits)
    names = [record.pair for record in data.splits["validation"]]
    renamed = zip(data.splits["validation"], names[1:] + names[:1], strict=True)
    shuffled.splits["validation"] = [replace(record, pair=other) for record, other in renamed]

    def refused(*_):
        pytest.fail("an image of the test set was read")

    shuffled.splits["test"] = [replace(record, read=refused) for record in data.splits["test"]]
    before, after = (
        criterion_of(Translates, model, each, ways["good"])() for each in (data, shuffled)
    )

    assert after == before


def test_paired_methods_choose_by_pairs_and_noise_by_distance(
    study,
):
    model, _, ways = study
    data = Data(model.data, Pairs)
    found = [criterion_of(Pairs, model, data, ways[name]) for name in ("copy", "good", "collapsed")]
    choice = Choice(rule=found[0].rule, higher_is_better=found[0].higher)
    for step, criterion in enumerate(found):
        choice.add(step, criterion())

    assert choice.step == 1
    assert choice.rule == "highest PSNR on validation pairs"

    criterion = Criterion(scorer_of(Samples))
    entry = criterion()

    assert entry["score"] == entry["image"]["kid_random"] > 0
    assert not criterion.higher


def test_the_best_checkpoint_outlives_newer_ones(tiny_recipe, tmp_path, monkeypatch):
    # too few images to judge cost no training
    left = [0.9, 0.2, UserError("1 image is no set"), 0.4, 0.3]

    class Fake:
        rule = "as given"
        higher = False

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
    assert run.best().name == "step-000002"
    assert run.latest().name == "step-000005"
    best = json.loads((run.path / "best.json").read_text())
    assert best["step"] == 2
    assert [row["score"] for row in best["table"]] == [
        0.9,
        0.2,
        None,
        0.4,
        0.3,
    ]
    assert best["table"][2]["barred"].startswith("1 image is no set")


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
    left = gantk.run(tiny_recipe, out=tmp_path / "left", **QUIET)
    batch_at = training.Training.batch_at

    def stopped(self, step, stage):
        if step == at - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return batch_at(self, step, stage)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(training.Training, "batch_at", stopped)
        gantk.run(tiny_recipe, out=tmp_path / "run", **QUIET)

    run = gantk.Run(tmp_path / "run")

    assert checkpoint.steps_saved(run.checkpoints) == [*range(2, at, 2), at]
    assert run.inference_checkpoint().name == ("step-000001" if at == 1 else "step-000002")

    gantk.resume(run, **QUIET)
    for name in ("best.json", "checkpoints/step-000004/weights.safetensors", "samples/index.json"):
        assert (run.path / name).read_bytes() == (left.path / name).read_bytes()

    assert (
        checkpoint.steps_saved(run.checkpoints)
        == checkpoint.steps_saved(left.checkpoints)
        == [2, 4]
    )
    clock = {"seconds": 0, "images_per_s": 0}
    assert [line | clock for line in run.log] == [line | clock for line in left.log]


def test_a_model_that_makes_nan_cannot_be_chosen(study):
    model, data, _ = study
    to_nan = {to: lambda x: x * torch.nan for to in "ab"}

    with pytest.raises(UserError, match="NaN"):
        criterion_of(Translates, model, data, to_nan)()


@pytest.fixture
def stopped_run(tiny_recipe, tmp_path):
    """A run of 40 steps that saves every second and stopped, as no save was better than the first."""
    tiny_recipe["train"] |= {
        "steps": 40,
        "save_every": 2,
        "log_every": 4,
        "sample_every": 3,
        "patience": 2,
        "ema": 0.0,
        "optimizer": {"name": "adam", "lr": 0.0},
    }
    return gantk.run(tiny_recipe, out=tmp_path / "run", **QUIET)


def stops_of(run) -> list[LogLine]:
    return [line for line in run.read_log() if line.stopped]


def test_patience_ends_a_training(stopped_run):
    (stopped,) = stops_of(stopped_run)
    assert stopped.step == 6
    assert "2 checkpoints without a better score than at step 2" in stopped.stopped
    log = stopped_run.read_log()
    assert [line.step for line in log if line.losses][-1] == 6
    assert [line.step for line in log if line.validation][-1] == 6
    assert stopped_run.latest().name == "step-000006"
    assert stopped_run.best().name == "step-000002"
    report = (stopped_run.path / "report.html").read_text("utf-8")
    assert "Training stopped early, after step 6" in report


@pytest.mark.quick_cases("finished")
@pytest.mark.parametrize("killed", [False, True], ids=["finished", "killed before"])
def test_a_resume_agrees_that_patience_has_ended(stopped_run, killed):
    run = stopped_run
    stops = stops_of(run)
    weights = (run.latest() / "weights.safetensors").read_bytes()
    if killed:
        shutil.rmtree(checkpoint.path_of(run.checkpoints, 6))

    gantk.resume(run.path, **QUIET)

    assert run.latest().name == "step-000006"
    assert (run.latest() / "weights.safetensors").read_bytes() == weights
    assert stops_of(run) == stops
