"""Bad input: one message that says what, where, what is allowed and what to do; kept word for word in golden/.

`GANTK_WRITE_GOLDEN=1 pytest tests/test_errors.py` writes the texts anew; read the difference before you keep it.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from gantk.errors import UserError, did_you_mean, nearest

GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.get("GANTK_WRITE_GOLDEN") == "1"


class Place:
    """An empty folder to make a mistake in."""

    def __init__(self, folder: Path, recipe: dict, run: Path, pictures: Callable, add_plugin: Callable):
        self.folder, self.recipe, self.finished = folder, recipe, run
        self.pictures, self.add_plugin = pictures, add_plugin

    def write(self, recipe: dict | None = None, name: str = "tiny.toml") -> str:
        (self.folder / name).write_text(tomli_w.dumps(recipe or self.recipe), "utf-8")
        return name

    def train(self, *options: str) -> list[str]:
        return ["run", self.write(), "--out", "new", "--device", "cpu", *options]

    def two_folders(self, a: int = 16, b: int = 16) -> Path:
        self.pictures(self.folder / "data" / "trainA", a, seed=1)
        self.pictures(self.folder / "data" / "trainB", b, seed=2)
        return self.folder / "data"

    def run(self) -> Path:
        return Path(shutil.copytree(self.finished, self.folder / "run"))


@pytest.fixture
def place(tmp_path, tiny_recipe, tiny_run, pictures, add_plugin, monkeypatch) -> Place:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Place(folder, tiny_recipe, tiny_run, pictures, add_plugin)


CASES: dict[str, Callable[[Place], list[str]]] = {}


def case(mistake: Callable[[Place], list[str]]) -> Callable:
    CASES[mistake.__name__] = mistake
    return mistake


# ---- names and types -----------------------------------------------------------------------------


@case
def not_a_number(place):
    place.recipe["method"]["cycle"] = float("nan")
    return place.train()


@case
def neither_steps_nor_epochs(place):
    del place.recipe["train"]["steps"]
    return place.train()


@case
def phase_that_is_not_there(place):
    place.recipe["train"]["optimizers"] = {"generator": {"name": "adam", "lr": 1e-4}}
    return place.train()


@case
def learning_rate_below_zero(place):
    place.recipe["train"]["optimizer"] = {"name": "adam", "lr": -1e-4}
    return place.train()


@case
def pool_below_zero(place):
    place.recipe["method"]["pool"] = -1
    return place.train()


@case
def share_of_a_stage_beyond_all(place):
    place.recipe["method"]["low_res_warmup"] = 1.5
    return place.train()


@case
def size_whose_half_a_unet_cannot_take(place):
    place.recipe["data"]["size"] = [40, 40]
    place.recipe["method"]["low_res_warmup"] = 0.5
    return place.train()


@case
def size_that_leaves_no_patch(place):
    place.recipe["method"]["discriminator"]["receptive_field"] = 142
    return place.train()


# ---- folders and images --------------------------------------------------------------------------


@case
def missing_folder_in_the_recipe(place):
    place.recipe["data"]["source"] = {"name": "folders", "path": "nowhere"}
    return place.train()


@case
def one_folder_only(place):
    place.pictures(place.folder / "data", 8)
    return place.train("--data", "data")


@case
def one_image_folders(place):
    place.two_folders(1, 1)
    return place.train("--data", "data")


@case
def unreadable_image(place):
    (place.two_folders() / "trainA" / "slice-03.png").write_text("this is no picture")
    return place.train("--data", "data")


@case
def constant_images(place):
    from PIL import Image

    for path in (place.two_folders() / "trainA").iterdir():
        Image.new("L", (32, 32), 7).save(path)
    return place.train("--data", "data")


# ---- data that do not suit the method ------------------------------------------------------------

PIX2PIX = {"name": "pix2pix", "generator": {"name": "unet", "width": 4, "depth": 2}, "discriminator": "patchgan"}
DCGAN = {"name": "dcgan", "width": 4, "discriminator": {"name": "dcgan", "width": 4, "depth": 3}}


def on(place, method: dict, *options: str, **data) -> list[str]:
    """The tiny recipe with another method and other keys of [data]."""
    place.recipe["method"] = method
    place.recipe["data"] |= data
    place.recipe["evaluate"].pop("metrics")
    return place.train(*options)


@case
def unpaired_data_for_a_paired_method(place):
    place.two_folders()
    for number, path in enumerate(sorted(Path("data/trainB").iterdir())):
        path.rename(path.with_name(f"other-{number}.png"))
    return on(place, PIX2PIX, "--data", "data")


@case
def a_partner_missing_for_a_paired_method(place):
    place.two_folders()
    Path("data/trainB/slice-03.png").unlink()
    return on(place, PIX2PIX, "--data", "data")


@case
def size_that_progan_cannot_grow_to(place):
    return on(place, {"name": "progan", "width": 8, "latent": 8}, domains=["T1"], size=[48, 48])


@case
def size_that_dcgan_cannot_make(place):
    return on(place, DCGAN, domains=["T1"], size=[50, 50])


@case
def labels_for_a_conditional_method_not_asked_for(place):
    return on(place, DCGAN | {"conditional": True}, domains=["T1"])


@case
def a_label_missing(place):
    place.pictures(place.folder / "data" / "tumour", 8, seed=1)
    place.pictures(place.folder / "data" / "healthy", 8, seed=2)
    place.pictures(place.folder / "data", 2, seed=3)
    return on(place, DCGAN, "--data", "data", domains=["MR"], labels=True)


@case
def masks_that_are_not_there(place):
    return on(place, PIX2PIX, mask=True)


@case
def lesion_weight_without_masks(place):
    return on(place, PIX2PIX | {"lesion": 4.0})


@case
def a_mask_on_another_grid(place):
    import nibabel as nib
    import numpy as np

    for patient in ("p01", "p02", "p03", "p04", "p05", "p06"):
        folder = place.folder / "data" / patient
        folder.mkdir(parents=True)
        for name in ("T1", "T2", "lesion"):
            side = 20 if name == "lesion" and patient == "p02" else 24
            values = np.random.default_rng(side).uniform(0, 100, (side, 24, 4)).astype(np.float32)
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{patient}_{name}.nii.gz")
    return on(place, PIX2PIX, "--data", "data", "--set", "data.source.mask=lesion", mask=True)


@case
def a_patch_larger_than_the_image(place):
    return place.train("--set", "data.patch=[64, 64]")


@case
def neighbours_of_volumes(place):
    return place.train("--set", "data.dims=3", "--set", "data.size=[16, 16, 16]", "--set", "data.neighbours=1")


@case
def pair_metrics_for_images_from_noise(place):
    return on(place, DCGAN, "--set", 'evaluate.metrics=["psnr"]', domains=["T1"])


@case
def style_weights_that_are_not_there(place):
    os.environ.pop("GANTK_WEIGHTS", None)
    return on(place, {"name": "style"})


@case
def style_image_of_another_mode(place):
    from PIL import Image

    place.two_folders()
    with Image.open("data/trainB/slice-00.png") as picture:
        picture.convert("RGB").save("style.png")
    return ["stylize", "data/trainA/slice-00.png", "style.png", "out.png", "--weights", "random"]


@case
def style_image_that_is_not_there(place):
    place.two_folders()
    return ["stylize", "data/trainA/slice-00.png", "style.png", "out.png", "--weights", "random"]


# ---- runs and checkpoints ------------------------------------------------------------------------


@case
def run_without_checkpoints(place):
    shutil.rmtree(place.run() / "checkpoints")
    return ["resume", "run"]


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


@case
def checkpoint_of_another_method(place):
    run = place.run()
    place.recipe["method"]["name"] = "cyclegan"
    (run / "recipe.toml").write_text(tomli_w.dumps(place.recipe))
    return ["resume", "run"]


@case
def checkpoint_of_another_method_to_translate(place):
    checkpoint_of_another_method(place)
    place.pictures(place.folder / "in", 1)
    return ["translate", "run", "in/slice-00.png", "out.png"]


@case
def checkpoint_of_another_network(place):
    run = place.run()
    place.recipe["method"]["generator"]["width"] = 6
    (run / "recipe.toml").write_text(tomli_w.dumps(place.recipe))
    return ["resume", "run"]


@case
def checkpoint_of_a_newer_format(place):
    path = newest(place.run()) / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    return ["resume", "run"]


class Payload:
    """A pickle that leaves a folder behind when it is loaded."""

    def __reduce__(self):
        return (os.mkdir, ("it-ran",))


@case
def pickle_dressed_as_state(place):
    (newest(place.run()) / "state.pt").write_bytes(pickle.dumps(Payload(), 2))
    return ["resume", "run"]


# ---- translating and scoring ---------------------------------------------------------------------


@case
def recipe_copied_over_another(place):
    (place.folder / "dualgan_t1t2.toml").touch()
    return ["recipes", "copy", "dualgan_t1t2"]


# ---- plugins -------------------------------------------------------------------------------------


@case
def plugin_that_fails_to_import(place):
    place.add_plugin("broken-package", "gantk_broken", "raise RuntimeError('its library is missing')\n")
    place.recipe["method"]["generator"] = {"name": "brokennet"}
    return place.train()


TAKES = """
from gantk import hookimpl

@hookimpl
def gantk_register(add):
    add.generator("unet", "gantk_greedy_net:Net")
"""


@case
def plugin_that_takes_a_name(place):
    place.add_plugin("greedy-package", "gantk_greedy", TAKES)
    return place.train()


@case
def plugin_whose_part_does_not_import(place):
    place.add_plugin("late-package", "gantk_late", TAKES.replace('"unet"', '"latenet"'))
    place.recipe["method"]["generator"] = {"name": "latenet"}
    return place.train()


# ---- all of them ---------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def folders(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir()}


def normalised(text: str, here: Path) -> str:
    """The message without what differs from machine to machine."""
    text = text.replace(str(here.resolve()), "HERE").replace(str(here), "HERE")
    return re.sub(r"0x[0-9a-f]+", "0x", text).strip() + "\n"


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_message_and_nothing_is_written(name, place, gantk):
    args = CASES[name](place)
    before, folders_before = tree(place.folder), folders(place.folder)
    outcome = gantk(*args)
    text = normalised(outcome.err, place.folder)
    golden = GOLDEN / f"{name}.txt"
    if WRITE:
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")
    assert outcome.code == 2
    assert text.startswith("error  ") and text.count("\n") == 1
    assert "Traceback" not in outcome.out + outcome.err
    assert tree(place.folder) == before and folders(place.folder) == folders_before


def test_no_golden_text_is_left_of_a_case_that_is_gone():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


def test_every_golden_text_says_what_is_allowed_or_what_to_do():
    """An error that only complains does not help."""
    helps = re.compile(r"Allowed: |Options: |Did you mean|should (be|have)|\. [`A-Z][^.]{7,}")
    assert [path.stem for path in sorted(GOLDEN.glob("*.txt")) if not helps.search(path.read_text("utf-8"))] == []


def test_the_payload_of_the_pickles_would_have_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Payload(), 2))
    assert (tmp_path / "it-ran").is_dir()


# ---- the error itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "it broke."),
        ({"where": "here"}, "it broke.  (here)"),
        ({"allowed": ["a", "b"]}, "it broke. Allowed: a, b."),
        ({"allowed": "this", "remedy": "do that", "where": "x:3"}, "it broke. Allowed: this. Do that.  (x:3)"),
        ({"remedy": "Did you mean 'x'?"}, "it broke. Did you mean 'x'?"),
        ({"remedy": "`gantk list` shows more."}, "it broke. `gantk list` shows more."),
    ],
)
def test_an_error_reads_as_sentences(parts, text):
    assert str(UserError("it broke", **parts)) == text


def test_places_nest_from_the_outside():
    assert str(UserError("it broke", where="width").at("r.toml:3")) == "it broke.  (r.toml:3: width)"


@pytest.mark.parametrize(
    ("name", "close"), [("unett", "unet"), ("UNET", "unet"), ("patch_gan", "patchgan"), ("zebra", None), ("", None)]
)
def test_the_nearest_spelling_is_found_and_nothing_far_away(name, close):
    names = ["unet", "resnet", "patchgan"]
    assert nearest(name, names) == close
    assert did_you_mean(name, names) == (f"Did you mean '{close}'?" if close else None)
