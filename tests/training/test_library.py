"""`gantk.training`: the engine in other programs."""

import runpy
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import ROOT, TINY, draw_pictures

import gantk
from gantk.data.arrays import keep

GUIDE = ROOT / "docs" / "guides" / "engine-in-your-program.md"
CPU = {"device": "cpu"}


def images(seed=0, size=(32, 32), low=-1.0, high=1.0):
    """A batch of T1 and T2, with an entry that is no image."""
    drawn = torch.Generator().manual_seed(seed)
    shape = (2, 1, *size)
    batch = {name: torch.rand(shape, generator=drawn) * (high - low) + low for name in ("T1", "T2")}
    return batch | {"path": ["somewhere"] * 2}


def endless():
    seed = 0
    while True:
        yield images(seed)
        seed += 1


def weights_of(run):
    model = gantk.load(run, device="cpu")
    return torch.cat([weight.flatten() for weight in model.method.state_dict().values()])


def settings(**train):
    return {f"train.{key}": value for key, value in train.items()}


def test_iterating_is_what_gantk_run_does(tmp_path):
    gantk.run(TINY, out=tmp_path / "run", say=lambda line: None, **CPU)
    with gantk.training(TINY, out=tmp_path / "loop", **CPU) as training:
        steps = list(training)

    assert [step.number for step in steps] == [1, 2, 3, 4]
    torch.testing.assert_close(weights_of(tmp_path / "loop"), weights_of(tmp_path / "run"))
    logged = gantk.Run(tmp_path / "run").log[-1]
    for name, loss in steps[-1].losses.items():
        assert float(loss) == pytest.approx(logged[f"losses.{name}"], abs=1e-6)
    assert {"a", "b", "fake_a", "fake_b"} <= set(steps[-1].batch)


@pytest.mark.quick_cases("break")
@pytest.mark.parametrize("kind", ["stop", "break", "error"])
def test_a_training_that_was_left_ends_with_the_same_weights(tmp_path, kind):
    with gantk.training(TINY, out=tmp_path / "whole", **CPU) as training:
        for _ in training:
            pass

    def leave():
        with gantk.training(TINY, out=tmp_path / "left", **CPU) as training:
            for step in training:
                if step.number == 2 and kind == "stop":
                    training.stop()
                if step.number == 3:
                    assert kind != "stop"
                    training.save()
                    if kind == "error":
                        raise RuntimeError("of the program")
                    break

    if kind == "error":
        with pytest.raises(RuntimeError, match="of the program"):
            leave()
    else:
        leave()
    with gantk.training(tmp_path / "left", **CPU) as training:
        training.fit()

    assert torch.equal(weights_of(tmp_path / "left"), weights_of(tmp_path / "whole"))


def test_an_edited_recipe_is_named_when_a_run_goes_on(tmp_path):
    run = gantk.run(TINY, set={"train.schedule": "linear"}, out=tmp_path / "run", say=print, **CPU)
    said = []
    gantk.resume(run, say=said.append, **CPU)
    changed = "was changed since"
    assert not any(changed in line for line in said)

    recipe = run.path / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("steps = 4\n", "steps = 8\n"))
    gantk.resume(run, say=said.append, **CPU)
    (line,) = [line for line in said if changed in line]
    assert "recipe.toml was changed since step 4: train.steps from 4 to 8" in line
    assert "the learning rate continues at 1 of its base" in line
    rates = [line["lr"] for line in run.log if "lr" in line]
    assert rates[-1] < rates[0] / 2  # as eight steps end


def test_a_run_without_a_save_is_begun_again(tmp_path):
    for patient in range(6):
        for seed, name in enumerate(("T1", "T2")):
            folder = tmp_path / "scans" / f"p{patient}" / name
            draw_pictures(folder, 2, seed=10 * patient + seed)

    again = {"data": tmp_path / "scans", "out": tmp_path / "run", **CPU}
    with gantk.training(TINY, **again):
        layout = (tmp_path / "run" / "recipe.toml").read_text().partition('layout = "')[2][:20]
        assert layout.partition('"')[0]  # by which its names were read; the recipe leaves it open

    with gantk.training(TINY, **again) as training:
        assert training.engine.step == 0
    with pytest.raises(gantk.UserError, match="already contains a run"):
        gantk.training(TINY, seed=1, **again)


def test_images_of_a_start_that_was_killed_are_stored_again(tmp_path):
    drawn = np.random.default_rng(0).random((2, 12, 32, 32), np.float32)
    arrays = {"T1": drawn[0], "T2": drawn[1], "patient": [f"p{n // 2}" for n in range(12)]}
    keep(arrays, tmp_path / "run" / "data", ("T1", "T2"))  # a kill, before recipe.toml is written

    with gantk.training(TINY, data=arrays, out=tmp_path / "run", **CPU) as training:
        assert training.engine.step == 0


def batches(*, ends=None, bad=None, value=0.0):
    """Batches until `ends`, the one numbered `bad` with a value in it."""
    for number in range(ends or 100):
        batch = images(number)
        if number == bad:
            batch["T2"][0, 0, 3, 3] = value
        yield batch


def broken():
    yield from batches(ends=3)
    raise OSError("the share is gone")


@pytest.mark.parametrize(
    ("data", "steps", "error"),
    [
        (lambda: batches(ends=3), 3, "ended after batch 3"),
        (
            lambda: batches(bad=2, value=float("nan")),
            2,
            "batch 3 of the loader has values that are not",
        ),
        (broken, 3, "the share is gone"),
    ],
    ids=["ends", "NaN", "raises"],
)
def test_steps_before_a_batch_that_fails_are_kept(tmp_path, data, steps, error):
    said = []
    with (
        pytest.raises((gantk.UserError, OSError), match=error),
        gantk.training(TINY, data=data(), out=tmp_path / "run", say=said.append, **CPU) as training,
    ):
        list(training)
    assert gantk.Run(tmp_path / "run").steps[-1] == steps
    assert training.was_stopped
    assert f"{steps} steps before it saved" in "\n".join(said)


@pytest.mark.parametrize(
    ("bad", "value", "said"),
    [
        (0, float("nan"), "batch 1 of the loader has values that are not finite in 'T2'"),
        (2, float("inf"), "batch 3 of the loader has values that are not finite in 'T2'"),
        (2, 1e6, "batch 3 of the loader has values up to 500,000 times"),
    ],
)
def test_a_bad_batch_is_named(tmp_path, bad, value, said):
    with (
        pytest.raises(gantk.UserError, match=said),
        gantk.training(
            TINY, data=batches(bad=bad, value=value), out=tmp_path / "run", **CPU
        ) as training,
    ):
        list(training)


def test_matches_that_a_loader_cannot_give_are_refused(tmp_path):
    method = TINY["method"] | {"pairs": "weak_pairs"}
    with pytest.raises(gantk.UserError, match='Set method.pairs = "none"'):
        gantk.training(TINY | {"method": method}, data=endless(), out=tmp_path / "run", **CPU)
    assert not (tmp_path / "run" / "recipe.toml").exists()


LOADERS = {
    "generator": endless,
    "DataLoader": lambda: torch.utils.data.DataLoader(
        [{"T1": images(n)["T1"][0], "T2": images(n)["T2"][0]} for n in range(6)], batch_size=2
    ),
    "of letters": lambda: ({"a": images(n)["T1"], "b": images(n)["T2"]} for n in range(9)),
}


@pytest.mark.parametrize("name", LOADERS)
def test_batches_of_any_iterable_are_trained_on(tmp_path, name):
    expected = list(zip(range(4), LOADERS[name]() if name != "DataLoader" else [], strict=False))
    with gantk.training(TINY, data=LOADERS[name](), out=tmp_path / "run", **CPU) as training:
        steps = list(training)

    assert len(steps) == 4
    for number, batch in expected:
        torch.testing.assert_close(steps[number].batch["a"], batch.get("T1", batch.get("a")))
    made = gantk.load(tmp_path / "run", **CPU).translate([*images()["T1"][:, 0]], to="T2")
    assert [each.shape for each in made] == [(32, 32), (32, 32)]


def test_a_loader_is_as_long_as_an_epoch(tmp_path):
    recipe = {**TINY, "train": {**TINY["train"], "epochs": 2}}
    del recipe["train"]["steps"]
    loader = LOADERS["DataLoader"]()
    with gantk.training(recipe, data=loader, out=tmp_path / "run", **CPU) as training:
        assert [step.number for step in training] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(gantk.UserError, match="a loader with a length"):
        gantk.training(recipe, data=endless(), out=tmp_path / "other", **CPU)


def test_batches_in_other_units_are_scaled(tmp_path):
    units = {"data.intensity": {"name": "window", "low": 0.0, "high": 100.0}}
    loader = [images(low=0.0, high=100.0)]
    with gantk.training(
        TINY, data=iter(loader), set=units | settings(steps=1), out=tmp_path / "run", **CPU
    ) as training:
        (step,) = training
    torch.testing.assert_close(step.batch["a"], loader[0]["T1"] / 50 - 1)


def test_a_training_on_batches_is_continued_with_batches(tmp_path):
    with gantk.training(TINY, data=endless(), out=tmp_path / "run", **CPU) as training:
        for step in training:
            if step.number == 2:
                training.stop()

    for again in (lambda: gantk.resume(tmp_path / "run"), lambda: gantk.training(tmp_path / "run")):
        with pytest.raises(gantk.UserError, match="batches of another program"):
            again()
    with gantk.training(tmp_path / "run", data=endless(), **CPU) as training:
        assert [step.number for step in training] == [3, 4]


def test_a_run_on_batches_is_not_begun_again_without_them(tmp_path):
    with gantk.training(TINY, data=endless(), out=tmp_path / "run", **CPU):
        pass

    recipe = str(tmp_path / "run" / "recipe.toml")
    with pytest.raises(gantk.UserError, match="already contains a run"):
        gantk.run(recipe, out=tmp_path / "run", **CPU)
    with gantk.training(tmp_path / "run", data=endless(), **CPU) as training:
        assert [step.number for step in training] == [1, 2, 3, 4]


# what is wrong with the batches -> what is said
WRONG = [
    ([], "the loader ended after batch 0"),
    ([[images()["T1"]]], "a batch has the type list"),
    ([{"T1": images()["T1"]}], "a batch has no tensor 'T2'"),
    ([images() | {"T2": np.zeros((2, 1, 32, 32))}], "a batch has no tensor 'T2'"),
    ([images(size=(32,))], "a batch has 'T1' of shape (2, 1, 32)"),
    ([images(), images(size=(16, 32))], "a batch has 'T1' of shape (2, 1, 16, 32)"),
    (
        [images(), images() | {"T1": torch.zeros(3, 1, 32, 32)}],
        "a batch has different numbers of images, {'T1': 3, 'T2': 2}",
    ),
]


@pytest.mark.parametrize(("batches", "said"), WRONG)
def test_batches_that_do_not_fit_are_named(tmp_path, batches, said):
    with (
        pytest.raises(gantk.UserError) as error,
        gantk.training(TINY, data=iter(batches), out=tmp_path / "run", **CPU) as training,
    ):
        for _ in training:
            pass
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("low", "high", "said"), [(-1.0, 1.0, 0), (0.0, 1.0, 1), (0.0, 255.0, 1), (-0.9, 1.2, 0)]
)
def test_values_of_another_scale_are_noted(tmp_path, low, high, said):
    lines = []
    loader = iter([images(low=low, high=high)])
    with gantk.training(TINY, data=loader, out=tmp_path / "run", say=lines.append, **CPU):
        pass
    assert sum("the first batch has values from" in line for line in lines) == said


def test_notes_are_python_warnings_and_are_kept(tmp_path):
    loader = iter([images(low=0.0, high=1.0)])
    with (
        pytest.warns(gantk.GantkWarning, match="the first batch has values from"),
        gantk.training(TINY, data=loader, out=tmp_path / "run", **CPU) as training,
    ):
        pass
    assert any("the first batch has values from" in note for note in training.notes)
    assert gantk.Run(tmp_path / "run").notes == training.notes


def test_callbacks_are_hooks_of_their_training_alone(tmp_path):
    calls = []

    class Mine:
        def gantk_before_training(self, model):
            calls.append(("before", model.method.name))

        def gantk_step_logged(self, run, step, logs):
            calls.append((run.name, step))

        def gantk_training_ended(self, run):
            calls.append((run.name, "ended"))

    short = settings(steps=2)
    with (
        gantk.training(TINY, set=short, out=tmp_path / "x", callbacks=[Mine()], **CPU) as mine,
        gantk.training(TINY, set=short, out=tmp_path / "y", **CPU) as other,
    ):
        for _ in zip(mine, other, strict=True):
            pass
    assert calls == [("before", "dualgan"), ("x", 1), ("x", 2), ("x", "ended")]


class Refuses:
    def gantk_before_training(self, model):
        raise gantk.UserError("not on a Friday")


class Misspelt:
    def gantk_step_loged(self, step):
        pass


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (Refuses(), "not on a Friday"),
        (Misspelt(), "Misspelt has a method 'gantk_step_loged'"),
        (print, "has no method that is named like a hook"),
    ],
)
def test_a_callback_that_refuses_or_does_nothing_is_an_error(tmp_path, callback, said):
    with pytest.raises(gantk.UserError, match=said):
        gantk.training(TINY, out=tmp_path / "run", callbacks=[callback], **CPU)
    assert not (tmp_path / "run").exists()


def test_options_of_a_continued_training_are_refused(tmp_path):
    with gantk.training(TINY, out=tmp_path / "run", **CPU) as training:
        next(iter(training))
        training.save()
    with pytest.raises(gantk.UserError, match="keeps its recipe, but seed is given"):
        gantk.training(tmp_path / "run", seed=3)
    with pytest.raises(gantk.UserError, match="reads the images of its split.json"):
        gantk.training(tmp_path / "run", data=endless())


# ---- the examples of the guide


def example(title):
    """The text of the guide's file of this name."""
    _, _, rest = GUIDE.read_text("utf-8").partition(f'```python title="{title}"\n')
    return rest.partition("```")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "needs", "names"),
    [
        ("monai_pipeline.py", "monai", ("step", "training")),
        ("own_loop.py", "torch", ("t2",)),
        ("lightning_module.py", "pytorch_lightning", ("trainer",)),
    ],
)
def test_the_examples_of_the_guide_run(tmp_path, monkeypatch, title, needs, names):
    pytest.importorskip(needs, reason=f"the example needs {needs}")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for patient in ("p01", "p02", "p03"):
        Path("patients", patient).mkdir(parents=True)
        for name in ("T1", "T2"):
            pixels = rng.random((40, 48, 8), dtype=np.float32) * 900
            nib.save(nib.Nifti1Image(pixels, np.eye(4)), f"patients/{patient}/{name}.nii.gz")
    Path(title).write_text(example(title), "utf-8")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left = runpy.run_path(title)

    assert all(name in left for name in names)
    if "step" in names:
        assert left["step"].number == 4
        made = gantk.load("runs/monai", device="cpu").translate(np.zeros((64, 64), np.float32))
        assert made.shape == (64, 64)
