"""Bad input beyond what tests/promises holds: one message, word for word the one in errors.json, and nothing written.

`GANTK_RECORD=1 pytest tests/test_errors.py` writes errors.json anew; read the difference before you keep it.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from PIL import Image
from tiny import TINY, draw_pictures

from gantk.errors import UserError, did_you_mean

FILE = Path(__file__).with_name("errors.json")
RECORD = os.environ.get("GANTK_RECORD") == "1"
Args = list[str]

PIX2PIX = {"name": "pix2pix", "generator": {"name": "unet", "width": 4, "depth": 2}, "discriminator": "patchgan"}
DCGAN = {"name": "dcgan", "width": 4, "discriminator": {"name": "dcgan", "width": 4, "depth": 3}}
NOT_A_STYLE = ["stylize", "data/trainA/slice-00.png", "style.png", "out.png", "--weights", "random"]


def train(*options: str, method: dict | None = None, **tables: dict) -> Args:
    """`gantk run` of the tiny recipe with other keys, or with another method."""
    recipe = copy.deepcopy(TINY)
    if method and "name" in method:
        recipe["method"] = method
        del recipe["evaluate"]["metrics"]
    for name, values in (tables | ({} if method is None or "name" in method else {"method": method})).items():
        recipe[name] |= values
    Path("tiny.toml").write_text(tomli_w.dumps(recipe), "utf-8")
    return ["run", "tiny.toml", "--out", "new", "--device", "cpu", *options]


def pictures(**counts: int) -> None:
    """`data` with a folder of pictures for each name, no two alike."""
    for seed, (name, count) in enumerate((counts or {"trainA": 16, "trainB": 16}).items(), 1):
        draw_pictures(Path("data") / name, count, seed=seed)


def unpaired() -> Args:
    pictures()
    for number, path in enumerate(sorted(Path("data/trainB").iterdir())):
        path.rename(path.with_name(f"other-{number}.png"))
    return train("--data", "data", method=PIX2PIX)


def partner_missing() -> Args:
    pictures()
    Path("data/trainB/slice-03.png").unlink()
    return train("--data", "data", method=PIX2PIX)


def label_missing() -> Args:
    pictures(tumour=8, healthy=8)
    draw_pictures(Path("data"), 2, seed=3)
    return train("--data", "data", method=DCGAN, data={"domains": ["MR"], "labels": True})


def mask_on_another_grid() -> Args:
    import nibabel as nib
    import numpy as np

    for patient in ("p01", "p02", "p03", "p04", "p05", "p06"):
        folder = Path("data") / patient
        folder.mkdir(parents=True)
        for name in ("T1", "T2", "lesion"):
            side = 20 if name == "lesion" and patient == "p02" else 24
            values = np.random.default_rng(side).uniform(0, 100, (side, 24, 4)).astype(np.float32)
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{patient}_{name}.nii.gz")
    return train("--data", "data", "--set", "data.source.mask=lesion", method=PIX2PIX, data={"mask": True})


def one_folder() -> Args:
    pictures(slices=8)
    return train("--data", "data/slices")


def style_of_another_mode() -> Args:
    pictures()
    Image.open("data/trainB/slice-00.png").convert("RGB").save("style.png")
    return NOT_A_STYLE


def changed_run(**method) -> Args:
    """`gantk resume` of a run whose recipe names another network or another method than its checkpoint."""
    tables = copy.deepcopy(TINY)
    tables["method"] |= method
    Path("run/recipe.toml").write_text(tomli_w.dumps(tables))
    return ["resume", "run"]


def without_checkpoints() -> Args:
    shutil.rmtree("run/checkpoints")
    return ["resume", "run"]


def newer_checkpoint() -> Args:
    path = max(Path("run/checkpoints").glob("step-*")) / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    return ["resume", "run"]


def translated_by_another() -> Args:
    changed_run(name="cyclegan")
    draw_pictures(Path("in"), 1)
    return ["translate", "run", "in/slice-00.png", "out.png"]


VOLUMES = ["--set", "data.dims=3", "--set", "data.size=[16, 16, 16]", "--set", "data.neighbours=1"]
CASES: dict[str, Callable[[], Args]] = {
    "not a number": lambda: train(method={"cycle": float("nan")}),
    "unknown phase": lambda: train(train={"optimizers": {"generator": {"name": "adam", "lr": 1e-4}}}),
    "learning rate below zero": lambda: train(train={"optimizer": {"name": "adam", "lr": -1e-4}}),
    "pool below zero": lambda: train(method={"pool": -1}),
    "share of a stage beyond all": lambda: train(method={"low_res_warmup": 1.5}),
    "size whose half a U-Net cannot take": lambda: train(method={"low_res_warmup": 0.5}, data={"size": [40, 40]}),
    "size that leaves no patch": lambda: train("--set", "method.discriminator.receptive_field=142"),
    "patch larger than the image": lambda: train("--set", "data.patch=[64, 64]"),
    "neighbours of volumes": lambda: train(*VOLUMES),
    "one folder only": one_folder,
    "unpaired data for a paired method": unpaired,
    "partner missing for a paired method": partner_missing,
    "masks that are not there": lambda: train(method=PIX2PIX, data={"mask": True}),
    "lesion weight without masks": lambda: train(method=PIX2PIX | {"lesion": 4.0}),
    "mask on another grid": mask_on_another_grid,
    "size that ProGAN cannot grow to": lambda: train(
        method={"name": "progan", "width": 8, "latent": 8}, data={"domains": ["T1"], "size": [48, 48]}
    ),
    "size that DCGAN cannot make": lambda: train(method=DCGAN, data={"domains": ["T1"], "size": [50, 50]}),
    "labels not asked for": lambda: train(method=DCGAN | {"conditional": True}, data={"domains": ["T1"]}),
    "label missing": label_missing,
    "metrics of pairs for images from noise": lambda: train(
        "--set", 'evaluate.metrics=["psnr"]', method=DCGAN, data={"domains": ["T1"]}
    ),
    "style weights that are not there": lambda: train(method={"name": "style"}),
    "style image of another mode": style_of_another_mode,
    "style image that is not there": lambda: [pictures(), *NOT_A_STYLE][1:],
    "run without checkpoints": without_checkpoints,
    "checkpoint of another method": lambda: changed_run(name="cyclegan"),
    "checkpoint of another method to translate": translated_by_another,
    "checkpoint of another network": lambda: changed_run(generator={"name": "unet", "width": 6, "depth": 3}),
    "checkpoint of a newer format": newer_checkpoint,
    "recipe copied over another": lambda: [Path("dualgan_t1t2.toml").touch(), "recipes", "copy", "dualgan_t1t2"][1:],
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_recorded_message_and_nothing_is_written(name, gantk, tiny_run, tmp_path, monkeypatch):
    here = tmp_path / "here"
    shutil.copytree(tiny_run, here / "run")
    monkeypatch.chdir(here)
    monkeypatch.delenv("GANTK_WEIGHTS", raising=False)
    args = CASES[name]()
    before = {path: path.is_file() and path.read_bytes() for path in here.rglob("*")}
    outcome = gantk(*args)
    text = outcome.err.replace(str(here.resolve()), "HERE").replace(str(here), "HERE").strip()
    kept = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    if RECORD:
        kept = {each: text if each == name else kept[each] for each in CASES if each == name or each in kept}
        FILE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")
    assert outcome.code == 2 and text == kept[name]
    assert text.startswith("error  ") and "\n" not in text and "Traceback" not in outcome.out
    assert {path: path.is_file() and path.read_bytes() for path in here.rglob("*")} == before


def test_every_recorded_text_is_of_a_case_and_says_what_is_allowed_or_what_to_do():
    kept = json.loads(FILE.read_text("utf-8"))
    helps = re.compile(r"Allowed: |Options: |Did you mean|should (be|have)|\. [`A-Z][^.]{7,}")
    assert kept.keys() == CASES.keys()
    assert [name for name, text in kept.items() if not helps.search(text)] == []


def test_an_error_reads_as_sentences_and_places_nest_from_the_outside():
    assert str(UserError("it broke")) == "it broke."
    error = UserError("it broke", allowed=["a", "b"], remedy="`gantk list` shows more.", where="width")
    assert str(error.at("r.toml:3")) == "it broke. Allowed: a, b. `gantk list` shows more.  (r.toml:3: width)"


@pytest.mark.parametrize(
    ("name", "close"), [("unett", "unet"), ("UNET", "unet"), ("patch_gan", "patchgan"), ("zebra", None), ("", None)]
)
def test_the_nearest_spelling_is_found_and_nothing_far_away(name, close):
    expected = f"Did you mean '{close}'?" if close else None
    assert did_you_mean(name, ["unet", "resnet", "patchgan"]) == expected
