"""Every bundled recipe takes `--data`: pictures, volumes, a DICOM export, a table; or says what it wants instead."""

import functools

import dicom_files
import numpy as np
import pytest
from PIL import Image
from tiny import ROOT
from volumes import volume

import gantk
from gantk.data.batches import Batches
from gantk.data.dataset import Data
from gantk.data.preparation import contrast_names
from gantk.errors import UserError
from gantk.recipe.load import checked_recipe, load_recipe

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.toml"))
KINDS = ("pictures", "nifti", "dicom", "table")
PATIENTS, SLICES = 3, 8


def contrasts_of(recipe):
    return [name for domain in load_recipe(recipe).tables["data"]["domains"] for name in contrast_names(domain)]


def anatomy(patient):
    """int16 (slices, rows, columns) from 0 to 900: blobs that no two slices of any patients share."""
    coarse = np.random.default_rng(patient).uniform(0, 900, (SLICES, 1, 12, 11))
    return np.stack([np.asarray(Image.fromarray(plane).resize((36, 40))) for plane in coarse[:, 0]]).astype(np.int16)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """`data(contrasts, kind)`: three patients' images of these contrasts, and what `--data` takes of them."""

    @functools.cache
    def draw(contrasts, kind):
        root, rows = tmp_path_factory.mktemp(kind), ["path,domain,patient,split"]
        for n in range(PATIENTS):
            for k, contrast in enumerate(contrasts):
                scan = anatomy(n) * (k + 1) // (2 + k) if k % 2 else 900 - anatomy(n)
                if kind == "nifti":
                    volume(root / f"p{n}" / f"{contrast}.nii.gz", values=scan.transpose().astype(np.float32))
                elif kind == "dicom":
                    header = {"PatientID": f"p{n}", "SeriesDescription": contrast, "SeriesInstanceUID": f"1.2.{n}.{k}"}
                    header |= {"ProtocolName": "", "StudyInstanceUID": f"1.3.{n}", "FrameOfReferenceUID": f"1.4.{n}"}
                    kind_of = "CT" if contrast == "CT" else "MR"
                    dicom_files.series(root / f"{n}{k}", scan, modality=kind_of, **header)
                else:
                    for z, plane in enumerate(scan):
                        path = root / contrast / f"p{n}" / f"{z}.png"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        Image.fromarray((plane / 5).astype(np.uint8)).save(path)
                        split = "test" if n == PATIENTS - 1 else "train"
                        rows.append(f"{path.relative_to(root)},{contrast},p{n},{split}")
        if kind == "table":
            (root / "images.csv").write_text("\n".join(rows))
            return root / "images.csv"
        return root

    return draw


def refusal_of(recipe, kind):
    """What a recipe cannot take by nature, or needs more for: the message, and the settings by which it goes on."""
    table = load_recipe(recipe).tables["data"]
    if table.get("dims") == 3 and kind in ("pictures", "table"):
        return "is a picture, and data.dims is 3. Allowed: volumes: NIfTI", None
    if "+" in table["domains"][0] and kind != "nifti":
        said = "' is [34] contrasts.*a folder (each with|for each patient that holds) a file"
        return f"{said}|cannot tell which images" if len({*table["domains"]}) == 1 else said, None
    if recipe == "style_gan_tumour" and kind == "nifti":  # its domains are classes, which no header or file name says
        return "holds one domain.*For two domains use 'folders'", None
    if table.get("labels"):
        more = ["data.labels=false", "method.conditional=false"]
        more += [f'evaluate.metrics=["{"psnr" if "pix2pix" in recipe else "kid"}"]'] * ("tumour" in recipe)
        return "images have no label.*set data.labels = false", more
    if table.get("mask"):
        more = ["data.mask=false", *["method.lesion=1.0"] * (recipe == "pix2pix_lesion")]
        return "no image .* has a lesion mask.*--set data.source.mask=seg.*--set data.mask=false", more
    return "", []


def checked(data, recipe, kind, *settings, profile=None):
    """The settings under which a recipe goes with this data, and the first batch; None where it cannot by nature."""
    path, (says, over) = data(tuple(contrasts_of(recipe)), kind), refusal_of(recipe, kind)

    def first_batch(*more):
        model = checked_recipe(recipe, path, [*settings, *more], profile)[1]
        found = Data(model.data, model.method.target)
        batches = Batches(found.training_sets(), 1, 0, found.paired)
        try:
            return batches.at(0), found
        finally:
            batches.close()

    if says:
        with pytest.raises(UserError, match=says):
            first_batch()
    return path, over, first_batch(*over) if over is not None else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_data_of_every_kind_or_says_what_it_wants(data, recipe, kind):
    _, _, found = checked(data, recipe, kind)
    if found:
        batch, used = found
        assert all(images.shape[2:] == used.table.size for name, images in batch.items() if name in used.letters)
        given = {name: {record.subject for record in part} for name, part in used.splits.items()}
        assert kind != "table" or given == {"train": {"p0", "p1"}, "validation": set(), "test": {"p2"}}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_on_data_of_every_kind(data, recipe, kind, tmp_path):
    profile = "cpu" if "cpu" in load_recipe(recipe).tables.get("profile", {}) else None
    path, over, found = checked(data, recipe, kind, profile=profile)
    if found:
        small = ["train.steps=1", "train.batch=1", "evaluate.images=4", "evaluate.regression=0", *over]
        small += ["method.translate_steps=1"] * (recipe == "style_t1t2")
        run = gantk.run(recipe, data=path, set=small, profile=profile, out=tmp_path / "run", device="cpu", say=str)
        assert (run.path / "report.html").exists() and (run.path / "metrics.json").exists()
