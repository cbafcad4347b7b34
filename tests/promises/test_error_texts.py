"""A mistake is one message, word for word the recorded one, exit code 2, and nothing is written.

`GANTK_RECORD=1 pytest tests/promises/test_error_texts.py` writes errors.json anew; read the
difference before you keep it.
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import files
import numpy as np
import pytest
from PIL import Image
from tiny import read_json, write_json

FILE = Path(__file__).with_name("errors.json")
RECORD = os.environ.get("GANTK_RECORD") == "1"
Args = list[object]


def beside(here: Path, words: str, name: str, content: str | None = None) -> Args:
    """The words of a command beside a file with this content, or an empty folder."""
    if content is None:
        (here / name).mkdir()
    else:
        (here / name).write_text(content)
    return words.split()


def train(here: Path, *options: object, **changes: dict) -> Args:
    """`gantk run` with a recipe that has a mistake in it, or with options that have."""
    files.recipe(here / "tiny.toml", **changes)
    return ["run", "tiny.toml", "--out", "new", "--device", "cpu", *options]


def unpaired(here: Path) -> Args:
    for side, name in (("trainA", "one"), ("trainB", "two")):
        files.pictures(here / "data" / side, 16, name=name)
    return other(here, PIX2PIX, "--data", "data")


def other(here: Path, method: dict, *options: object, **changes: dict) -> Args:
    """`gantk run` of another method, with its own metrics."""
    files.recipe(
        here / "tiny.toml", files.TINY | {"method": method, "evaluate": {"samples": 1}}, **changes
    )
    return ["run", "tiny.toml", "--out", "new", "--device", "cpu", *options]


def on_pictures(
    here: Path, change: Callable[[Path], object] = lambda data: None, b: int = 16
) -> Args:
    """`gantk run` on pictures in two folders of which something is wrong."""
    change(files.two_domains(here / "data", b=b))
    return train(here, "--data", "data")


def translate(
    here: Path, source: str = "in/slice-00.png", target: str = "out.png", *options: str
) -> Args:
    files.pictures(here / "in", 1)
    return ["translate", "RUN", source, target, "--device", "cpu", *options]


def score(
    here: Path, change: Callable[[Path], object] = lambda here: None, metrics: str = "psnr,mae"
) -> Args:
    """`gantk eval` of two folders with the same three pictures, of which something is wrong."""
    for side in ("pred", "truth"):
        files.pictures(here / side, 3)

    change(here)
    return [
        "eval",
        "--pred",
        "pred",
        "--truth",
        "truth",
        "--metrics",
        metrics,
        "--json",
        "scores.json",
    ]


def volumes(here: Path, **other: object) -> Args:
    """`gantk eval` of two volumes of which one has another grid, or other numbers."""
    given = {"values": files.numbers(1, (12, 12, 8), 0, 9, np.float32), "affine": None}
    files.nifti(here / "truth.nii.gz", **given)
    files.nifti(here / "pred.nii.gz", **given | other)
    return ["eval", "--pred", "pred.nii.gz", "--truth", "truth.nii.gz"]


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def damaged(here: Path, content: bytes | int) -> Args:
    """`gantk resume` of a copy of the run with something wrong in its weights."""
    copy = shutil.copytree(here.parent / "RUN", here / "copy")
    path = next(copy.glob("checkpoints/step-*/weights.safetensors"))
    cut(path, content) if isinstance(content, int) else path.write_bytes(content)
    return ["resume", "copy"]


def changed(here: Path, **method: object) -> Args:
    """`gantk resume` of a copy of the run whose recipe names another network or method than its
    checkpoint.
    """
    files.recipe(shutil.copytree(here.parent / "RUN", here / "copy") / "recipe.toml", method=method)
    return ["resume", "copy"]


def newer(here: Path) -> Args:
    path = next(shutil.copytree(here.parent / "RUN", here / "copy").glob("checkpoints/*/meta.json"))
    write_json(path, read_json(path) | {"format": 99, "sha256": {}})
    return ["resume", "copy"]


def without_checkpoints(here: Path) -> Args:
    shutil.rmtree(shutil.copytree(here.parent / "RUN", here / "copy") / "checkpoints")
    return ["resume", "copy"]


def stylize(here: Path, words: str) -> Args:
    files.picture(here / "content.png", files.numbers(1, (32, 32)))
    files.picture(here / "style.png", files.numbers(2, (32, 32)))
    files.picture(here / "small.png", files.numbers(3, (3, 3)))
    (here / "notes.txt").write_text("no image")
    (here / "folder").mkdir()
    return ["stylize", *words.split(), "--weights", "random"]


def of_scan(here: Path, *options: str) -> Args:
    """`gantk translate` of a volume with options that it cannot have."""
    files.nifti(here / "scan.nii", files.numbers(1, (24, 24, 3), 0, 900, np.int16))
    return ["translate", "RUN", "scan.nii", "out.nii", "--device", "cpu", *options]


def bench(here: Path, *words: str) -> Args:
    """`gantk bench` beside a folder that is no bench's."""
    files.recipe(here / "tiny.toml", files.TINY)
    (here / "small.toml").write_text("jobs = 1\n")
    (here / "taken/runs/tiny").mkdir(parents=True)
    (here / "taken/runs/tiny/precious").write_text("mine")
    return ["bench", "--out", "new", *words, "--suite", "small.toml", "--device", "cpu"]


def sweep(here: Path, *words: str, **changes: dict) -> Args:
    files.recipe(here / "tiny.toml", train={"steps": 24}, **changes)
    return ["sweep", "tiny.toml", "--out", "new", *words]


def export(here: Path, out: str, *options: str) -> Args:
    (here / "there.onnx").write_bytes(b"mine")
    (here / "full").mkdir()
    (here / "full" / "mine.txt").touch()
    return ["export", "RUN", "--out", out, *options]


def other_set(folder: Path, values: np.ndarray) -> None:
    files.picture(folder / "slice-03.tif", values)


def constant(folder: Path) -> None:
    for path in [*folder.iterdir()]:
        path.unlink()
        files.picture(path.with_suffix(".tif"), np.full((32, 32), 7, np.float32))


def broken_nifti(here: Path) -> Args:
    cut(files.nifti(here / "cut.nii", files.numbers(1, (20, 20, 9), 0, 99, np.int16)), 900)
    return translate(here, "cut.nii", "out.nii")


def broken_dicom(here: Path) -> Args:
    files.series(here / "dicom", files.numbers(1, (4, 16, 16), 0, 99, np.int16))
    cut(here / "dicom" / "003.dcm", 700)
    return translate(here, "dicom/003.dcm", "out.dcm")


def gap(here: Path) -> Args:
    files.series(here / "dicom", files.numbers(1, (7, 16, 16), 0, 99, np.int16), skip=(3,))
    return translate(here, "dicom", "out")


def several(here: Path) -> Args:
    files.nifti(here / "several.nii", files.numbers(1, (12, 12, 4, 3), 0, 99, np.int16))
    return translate(here, "several.nii", "out.nii")


def all_nan(here: Path) -> Args:
    files.nifti(here / "nan.nii", np.full((12, 12, 4), np.nan, np.float32))
    return translate(here, "nan.nii", "out.nii")


def table(here: Path, *splits: str) -> Args:
    files.patients(here / "data", 6)
    lines = [
        f"data/p{k:02d}/p{k:02d}_T1.nii.gz,data/p{k:02d}/p{k:02d}_T2.nii.gz,p{k:02d},{split}"
        for k, split in enumerate(splits)
    ]
    (here / "scans.csv").write_text("\n".join(["T1,T2,patient,split", *lines]))
    return train(here, "--data", "scans.csv")


def existing(here: Path) -> Args:
    shutil.copytree(here.parent / "RUN", here / "copy")
    return [*train(here)[:2], "--out", "copy", "--device", "cpu"]


def blank(data: Path) -> None:
    for path in (data / "trainA").iterdir():
        Image.new("L", (32, 32), 7).save(path)


def only_text(here: Path) -> Args:
    (here / "data").mkdir()
    (here / "data" / "notes.txt").write_text("no image")
    return train(here, "--data", "data")


def rgb(path: Path) -> None:
    files.picture(path, files.numbers(1, (32, 32, 3)))


def nan(here: Path) -> Args:
    values = files.numbers(1, (12, 12, 8), 0, 9, np.float32)
    values[3, 4, 5] = np.nan
    return volumes(here, values=values)


PIX2PIX = {
    "name": "pix2pix",
    "generator": {"name": "unet", "width": 4, "depth": 2},
    "discriminator": "patchgan",
}
DCGAN = files.NOISE["method"]
PROGAN = {"name": "progan", "width": 8, "latent": 8}
T1 = {"domains": ["T1"]}
SPACE = ("--space", "method.cycle=1.0..20.0:log")
VOLUMES = {"dims": 3, "size": [16, 16, 16], "neighbours": 1}

# a command, or what makes its words in a folder, with its further arguments
Case = str | Callable[[Path], Args] | tuple
CASES: dict[str, Case] = {
    # ---- recipes
    "unknown option of a network": lambda h: train(
        h, method={"generator": {"name": "unet", "wdth": 4}}
    ),
    "unknown key": lambda h: train(h, train={"bacth": 2}),
    "unknown table": (train, "--set", "metod.name=1"),
    "unknown network": lambda h: train(h, method={"generator": "unett"}),
    "loss of feature maps for images": (other, PIX2PIX | {"target_losses": ["gram"]}),
    "loss of feature maps for logits": (other, PIX2PIX | {"adversarial": "gram"}),
    "loss of images for logits": (other, PIX2PIX | {"adversarial": "l1"}),
    "loss of logits for images": (train, "--set", "method.cycle_loss=bce"),
    "loss of source for images": (other, PIX2PIX | {"reconstruction": "edge_direction"}),
    "loss of another toolkit": (train, "--set", "method.adversarial=lsgan"),
    "unknown method": lambda h: train(h, method={"name": "dualgun"}),
    "unknown recipe": "run dualgan_t1t3",
    "pattern of runs without quotes": "translate runs/fold0 runs/fold1 scans out",
    "unknown profile": (train, "--profile", "smal"),
    "unknown domain": lambda h: train(h, data={"domains": ["T1", "T3"]}),
    "unknown intensity": lambda h: train(h, data={"intensity": "percentil"}),
    "unknown device": lambda h: [*train(h)[:4], "--device", "gpu0"],
    "wrong type": lambda h: train(h, train={"steps": "many"}),
    "wrong type of an option": lambda h: train(
        h, method={"generator": {"name": "unet", "width": 4.5}}
    ),
    "out of range": lambda h: train(h, data={"split": {"test": 1.5}}),
    "shares that leave nothing": lambda h: train(
        h, data={"split": {"test": 0.6, "validation": 0.4}}
    ),
    "set without a value": (train, "--set", "train.steps"),
    "set of an unknown key": (train, "--set", "train.stepz=3"),
    "no TOML": (beside, "run bad.toml", "bad.toml", "[train\nsteps = 3\n"),
    "newer format": lambda h: [
        files.recipe(h / "new.toml", files.TINY | {"format": 99}),
        "run",
        "new.toml",
    ][1:],
    "size that a network cannot take": lambda h: train(h, data={"size": [36, 36]}),
    "patch that a network cannot take": (train, "--set", "data.patch=[12, 12]"),
    "unknown phase": lambda h: train(h, train={"optimizers": {"generator": {"name": "adam"}}}),
    "half size": lambda h: train(
        h, data={"size": [40, 40]}, method={"low_res_warmup": 0.5}, train={"steps": 2}
    ),
    "size that a discriminator cannot take": (
        train,
        "--set",
        "method.discriminator.receptive_field=142",
    ),
    "patch larger than the images": (train, "--set", "data.patch=[64, 64]"),
    "neighbours of volumes": lambda h: train(h, data=VOLUMES),
    "lesion without masks": (other, PIX2PIX | {"lesion": 4.0}),
    "pairs of noise": lambda h: other(h, DCGAN, "--set", 'evaluate.metrics=["psnr"]', data=T1),
    "size that cannot be grown": lambda h: other(h, PROGAN, data=T1 | {"size": [48, 48]}),
    "size that cannot be doubled": lambda h: other(h, DCGAN, data=T1 | {"size": [50, 50]}),
    "recipe that is there": (beside, "recipes copy dualgan_t1t2", "dualgan_t1t2.toml", "mine"),
    # ---- images to train on
    "missing data": (train, "--data", "nowhere"),
    "empty folder": lambda h: [(h / "data").mkdir(), *train(h, "--data", "data")][1:],
    "folder of other files": only_text,
    "one image of a domain": lambda h: on_pictures(h, b=1),
    "no picture": (
        on_pictures,
        lambda d: (d / "trainA/slice-03.png").write_text("this is no picture"),
    ),
    "truncated picture": (on_pictures, lambda d: cut(d / "trainB/slice-05.png", 90)),
    "empty picture": (on_pictures, lambda d: cut(d / "trainA/slice-00.png", 0)),
    "three channels among one": (on_pictures, lambda d: rgb(d / "trainA/slice-05.png")),
    "no contrast": (on_pictures, blank),
    "one folder": lambda h: train(h, "--data", files.pictures(h / "data/slices", 8).parent),
    "no pairs": unpaired,
    "no masks": lambda h: other(h, PIX2PIX, data={"mask": True}),
    "no labels": lambda h: other(h, DCGAN | {"conditional": True}, data=T1),
    "split file of earlier versions": (train, "--set", "data.split.file=split.csv"),
    "table that is not there": (train, "--data", "nowhere.csv"),
    "table with an unknown split": (table, "train", "trian"),
    "table that lacks a split": (table, "train", "test", ""),
    # ---- runs
    "missing run": "resume nowhere",
    "no run folder": (beside, "resume empty", "empty"),
    "run that is there": existing,
    "truncated weights": (damaged, 1000),
    "pickle for weights": (damaged, pickle.dumps({"a": 1})),
    "no checkpoint": without_checkpoints,
    "checkpoint of another method": lambda h: changed(h, name="cyclegan"),
    "checkpoint of another network": lambda h: changed(
        h, generator={"name": "unet", "width": 6, "depth": 3}
    ),
    "checkpoint of a newer version": newer,
    "samples of a translator": "sample RUN -n 2 --out new --device cpu",
    # ---- translating
    "missing input": (translate, "nowhere.png"),
    "input that is no image": lambda h: [
        (h / "notes.txt").write_text("no image"),
        *translate(h, "notes.txt"),
    ][1:],
    "empty input": lambda h: [(h / "in.png").touch(), *translate(h, "in.png")][1:],
    "truncated NIfTI": broken_nifti,
    "truncated DICOM": broken_dicom,
    "missing slices": gap,
    "several volumes": several,
    "nothing but NaN": all_nan,
    "output of another kind": lambda h: translate(h, target="out.nii.gz"),
    "output on top of the input": (translate, "in", "in"),
    "no style": (stylize, "content.png gone.png out.png"),
    "style that is no image": (stylize, "content.png notes.txt out.png"),
    "content too small": (stylize, 'small.png style.png out.png --set content_layers=["conv3_1"]'),
    "style to a folder": (stylize, "content.png style.png folder"),
    "style on top of the content": (stylize, "content.png style.png content.png"),
    "style to another kind": (stylize, "content.png style.png out.nii"),
    "style by a recipe without": (stylize, "content.png style.png out.png --recipe dualgan_t1t2"),
    "style by a role": (stylize, "content.png style.png out.png --set role=style"),
    "uncertainty of one run": (of_scan, "--uncertainty"),
    "uncertainty of variants": (of_scan, "--uncertainty", "--variants", "2"),
    "variants by a style": (of_scan, "--variants", "2", "--style", "scan.nii"),
    "variants of one answer": (of_scan, "--variants", "2"),
    "style of one answer": (of_scan, "--style", "scan.nii"),
    "class of a run without classes": (translate, "in", "out", "--label", "tumour"),
    "domain that is not made": (translate, "in", "out", "--to", "FLAIR"),
    # ---- scoring
    "unknown metric": lambda h: score(h, metrics="psnr,sim"),
    "unpaired names": (score, lambda h: (h / "pred/slice-01.png").rename(h / "pred/other.png")),
    "one channel against three": (score, lambda h: rgb(h / "pred/slice-01.png")),
    "mixed sizes": (
        score,
        lambda h: files.picture(h / "pred/slice-02.png", files.numbers(1, (32, 40))),
    ),
    "sets too small": lambda h: score(h, metrics="fid"),
    "another grid": lambda h: volumes(h, affine=np.diag([2.0, 1, 2, 1])),
    "NaN": nan,
    "no folder for the scores": lambda h: [*score(h)[:-1], "nowhere/scores.json"],
    "name twice": (
        score,
        lambda h: files.picture(h / "pred/slice-02.tif", files.numbers(1, (32, 32))),
    ),
    "two sizes in a set": (
        score,
        lambda h: other_set(h / "pred", files.numbers(1, (32, 40))),
        "kid",
    ),
    "NaN in a set": (
        score,
        lambda h: other_set(h / "truth", np.full((32, 32), np.nan, np.float32)),
        "kid",
    ),
    "truncated picture in a set": (score, lambda h: cut(h / "truth/slice-02.png", 90), "kid"),
    "constant truth": (score, lambda h: constant(h / "truth"), "psnr"),
    "constant set": (score, lambda h: constant(h / "truth"), "kid"),
    "folder that is not there": (score, lambda h: shutil.rmtree(h / "pred")),
    "folder without images": (
        score,
        lambda h: [path.unlink() for path in (h / "truth").iterdir()],
        "kid",
    ),
    "neither run nor folders": "eval",
    # ---- names
    "unknown command": "trian",
    "unknown kind of part": "list genrators",
    "unknown part": "show generator unett",
    "export to another kind": (export, "x.onnx", "--format", "tflite"),
    "export by a wrong name": (export, "model.bin"),
    "export that is there": (export, "there.onnx"),
    "export into no folder": (export, "no/such/x.onnx"),
    "export into a folder that is there": (export, "full", "--format", "monai"),
    "export of a domain that is not made": (export, "x.onnx", "--to", "FLAIR"),
    "bench of nothing": bench,
    "bench of all and one": (bench, "tiny.toml", "--all"),
    "bench of an unknown recipe": (bench, "dualgan_t1t3"),
    "grid without values": (bench, "tiny.toml", "--grid", "method.cycle"),
    "grid of an unknown key": (bench, "tiny.toml", "--grid", "method.cycel=0,1"),
    "seeds twice": (bench, "tiny.toml", "--seeds", "2", "--grid", "train.seed=0,1"),
    "bench against no rows": (bench, "tiny.toml", "--against", "small.toml"),
    "no folder for the rows": (bench, "tiny.toml", "--json", "no/rows.jsonl"),
    "bench of missing data": (bench, "tiny.toml", "--data", "nothing"),
    "bench into another folder": (bench, "tiny.toml", "--out", "taken"),
    "sweep of nothing": sweep,
    "space without values": (sweep, "--space", "method.cycle"),
    "space that ends before it begins": (sweep, "--space", "method.cycle=5..1"),
    "logarithm of 0": (sweep, "--space", "method.cycle=0.0..5.0:log"),
    "space twice": (sweep, "--space", "method.cycle=1.0..2.0", "--space", "method.cycle=1,2"),
    "space of an unknown key": (sweep, "--space", "method.cyle=1.0..2.0"),
    "space out of range": (sweep, "--space", "method.cycle=-1.0..2.0"),
    "sweep that goes on with more": (sweep, *SPACE, "--resume", "somewhere"),
    **{
        f"package called '{name}'": lambda h, name=name: ["new", "plugin", name]
        for name in ("2gan", "my gan", "../gan", "", "class", "JSON", "cyclegan", "torch")
    },
    "plan of no images": (beside, "plan empty --out recipe.toml", "empty"),
    "plan of nothing": "plan gone --out recipe.toml",
    "plan that is there": (beside, "plan . --out recipe.toml", "recipe.toml", "mine"),
    "trial's JSON without a trial": (train, "--json", "-"),
    "export of nothing": "export nowhere --out model.onnx",
    "check of nothing": "data check nowhere",
    "table that is there": (beside, "data check . --table scans.csv", "scans.csv", "mine"),
    "table without domains": lambda h: [
        files.two_domains(h / "data", 2, 2),
        (h / "scans.csv").write_text(
            "path,domain\n"
            + "".join(f"data/train{x}/slice-0{n}.png,\n" for x in "AB" for n in (0, 1))
        ),
        *train(h, "--data", "scans.csv"),
    ][2:],
}

QUESTIONS = {"one folder"}  # a question has a line for each answer


def command_of(case: Case, here: Path) -> Args:
    """The words of a command, after what it needs is made in a folder."""
    if isinstance(case, str):
        return case.split()
    make, *options = case if isinstance(case, tuple) else (case,)
    return make(here, *options)


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_recorded_message(name, trained, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "RUN").symlink_to(trained)
    args = [tmp_path / "RUN" if arg == "RUN" else arg for arg in command_of(CASES[name], here)]
    before = files.tree(here)
    outcome = files.gantk(*args, cwd=here)
    text = outcome.err.replace(str(here.resolve()), "HERE").replace(str(here), "HERE")
    text = re.sub(r"0x[0-9a-f]+", "0x", text.replace(str(tmp_path), "ABOVE")).strip()
    kept = read_json(FILE) if FILE.exists() else {}
    if RECORD:
        kept = {
            each: text if each == name else kept[each]
            for each in CASES
            if each == name or each in kept
        }
        FILE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")

    assert outcome.code == 2, outcome
    assert text == kept[name]
    assert "Traceback" not in outcome.out + outcome.err
    assert text.startswith(("Usage: ", "error  ", "question  "))
    assert text.startswith("Usage: ") or ("\n" in text) == (name in QUESTIONS)
    assert files.tree(here) == before


def test_a_process_and_a_function_end_with_the_same_words(tmp_path, monkeypatch):
    """What is called in one process above is what the shell sees, and what Python raises."""
    import gantk

    kept = read_json(FILE)["check of nothing"]
    done = files.python("-m", "gantk", "data", "check", "nowhere")

    assert done.code == 2
    assert done.err.strip() == kept

    monkeypatch.chdir(tmp_path)
    with pytest.raises(gantk.UserError) as error:
        gantk.check("nowhere")

    assert f"error  {error.value}" == kept
    assert isinstance(error.value, gantk.GantkError)
    assert error.value.exit_code == 2
