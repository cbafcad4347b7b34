"""The bundled recipes build in every profile, and those of published systems say what their reports
state.
"""

import functools

import dicom_files
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import ROOT
from volumes import volume

import gantk
from gantk import Batches, Data, checked_recipe
from gantk.errors import UserError
from gantk.method import Geometry, Method, check_networks, domain_letters
from gantk.recipe.load import Recipe, leaves, load_recipe, resolved
from gantk.recipe.published import departures

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


VARIANTS = [
    (path, name)
    for path in RECIPES
    for name in (None, *load_recipe(path).tables.get("profile", {}))
]


def build(model) -> Method:
    """The recipe's method for its phantom, on the meta device, which knows shapes and holds no
    numbers.
    """
    data = model.data
    slices = 2 * data.neighbours + 1
    names = zip(domain_letters(data.domains), data.domains, strict=True)
    channels = {letter: len(name.split("+")) * slices for letter, name in names}
    classes = ("healthy", "tumour") if data.labels else ()
    with torch.device("meta"):
        return model.method(Geometry(data.dims, data.patch or data.size, channels, classes))


@pytest.mark.parametrize(
    ("path", "profile"), VARIANTS, ids=lambda each: getattr(each, "stem", each)
)
def test_recipes_build_and_survive_writing_their_defaults(path, profile):
    model = load_recipe(path).override([], profile).check()
    assert model.summary.count(".")
    assert len(model.summary) <= 120
    tables = resolved(model)
    assert resolved(Recipe(tables).check()) == tables

    # real patients are what they are about; without, they say where
    own = path.stem in ("missing", "t1t2", "t1t2_patients")
    if not own and (path.stem, profile) != ("finetune_own", None):
        assert model.data.source.name == "phantom"

    try:
        method = build(model)
    except UserError as error:  # what others trained has to be fetched first
        assert "GANTK_WEIGHTS" in str(error)
        pytest.skip("needs pretrained weights")

    check_networks(method)
    geometry = method.geometry
    for to in method.directions() if model.method.name != "style" else []:  # which optimises
        image = torch.empty(
            1, geometry.channels["b" if to == "a" else "a"], *geometry.size, device="meta"
        )
        translating = method.of_class(0) if method.conditional else method
        assert translating.translate(image, to).shape == (1, geometry.channels[to], *geometry.size)


PAPERS = {path.stem: load_recipe(path).tables.get("paper", {}) for path in RECIPES}
REPORTS = [name for name, paper in PAPERS.items() if isinstance(paper.get("stated"), dict)]
LENGTHS = {
    "size",
    "width",
    "base",
    "latent",
    "mlp_dim",
    "epochs",
    "steps",
    "batch",
    "images",
    "post",
}


@pytest.mark.parametrize("name", REPORTS)
def test_published_recipes_state_their_report_in_every_profile(
    name,
):
    tables = load_recipe(name).tables
    model = load_recipe(name).check()
    # what the report says, and leaves open
    theirs = tables["paper"]["stated"]
    ours = set(tables["paper"]["ours"])
    stated = {".".join(path) for path in leaves(theirs)}

    assert departures(theirs, resolved(model)) == {}
    assert not stated & ours

    # a profile that changes more than sizes and lengths says that it is ours
    text = (ROOT / "recipes" / f"{name}.toml").read_text("utf-8")
    for profile, changes in tables.get("profile", {}).items():
        changed = {path[-1] for path in leaves(changes)}
        assert changed <= LENGTHS or f"[profile.{profile}] # not in the report" in text

    # every setting is either stated or marked as ours; where images come from is the user's affair
    known = tuple(f"{key}." for key in stated | ours | {"data.source", "data.domains"})
    keys = [
        ".".join(path) + "."
        for table in ("method", "data", "train")
        for path in leaves({table: tables[table]})
    ]

    assert [
        key
        for key in keys
        if not (key.startswith(known) or any(each.startswith(key) for each in known))
    ] == []


def test_departures_from_reports_are_listed(gantk, tmp_path):
    text = (ROOT / "recipes" / "cyclegan_t1t2_64.toml").read_text("utf-8")
    mine = tmp_path / "mine.toml"
    text = text.replace("lr = 2e-4, betas", "lr = 1e-3, betas").replace(
        "method.pool = 0", "method.pol = 0"
    )
    mine.write_text(text + "train.schedule = 'linear'\n", "utf-8")
    shown = gantk("show", "recipe", mine).out

    assert "# differs: train.optimizer.lr = 0.001 (report: 0.0002)" in shown
    assert "# differs: method.pol = not given (report: 0)" in shown
    assert "# named in the report, weight chosen here: method.cycle = 10.0" in shown
    within = gantk("show", "recipe", mine, "--profile", "cpu").out
    assert '# differs: train.schedule = { name = "linear"' in within
    assert "# differs" not in gantk("show", "cyclegan_t1t2_64").out
    (tmp_path / "shown.toml").write_text(shown, "utf-8")
    assert resolved(load_recipe(tmp_path / "shown.toml").check()) == resolved(
        load_recipe(mine).check()
    )


def test_recipes_without_held_out_files_test_on_yours(tmp_path):
    assert load_recipe("t1t2_patients").check().data.split.test == 0

    for number in range(6):
        for contrast in ("T1", "T2"):
            volume(tmp_path / f"p{number}" / f"{contrast}.nii.gz", number)
    _, yours = gantk.checked_recipe("t1t2_patients", tmp_path, [], None)

    assert yours.data.split.test > 0
    assert yours.data.split.by == "auto"


# ---- every recipe takes `--data`: pictures, volumes, a DICOM export, a table; or says what it
# wants instead


NAMES = [path.stem for path in RECIPES]
KINDS = ("pictures", "nifti", "dicom", "table")
# each recipe with one kind of data
QUICK = [f"{name}-{KINDS[number % len(KINDS)]}" for number, name in enumerate(NAMES)]
PATIENTS = 3
SLICES = 8


def anatomy(patient):
    """int16 (slices, rows, columns) from 0 to 900: blobs that no two slices of any patients share."""
    coarse = np.random.default_rng(patient).uniform(0, 900, (SLICES, 1, 12, 11))
    return np.stack(
        [np.asarray(Image.fromarray(plane).resize((36, 40))) for plane in coarse[:, 0]]
    ).astype(np.int16)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """`data(contrasts, kind)`: three patients' images of these contrasts, and what `--data` takes
    of them.
    """

    @functools.cache
    def draw(contrasts, kind):
        root = tmp_path_factory.mktemp(kind)
        rows = ["path,domain,patient,split"]
        for n in range(PATIENTS):
            for k, contrast in enumerate(contrasts):
                scan = anatomy(n) * (k + 1) // (2 + k) if k % 2 else 900 - anatomy(n)
                if kind == "nifti":
                    volume(
                        root / f"p{n}" / f"{contrast}.nii.gz",
                        values=scan.transpose().astype(np.float32),
                    )
                elif kind == "dicom":
                    header = {
                        "PatientID": f"p{n}",
                        "SeriesDescription": contrast,
                        "SeriesInstanceUID": f"1.2.{n}.{k}",
                    }
                    header |= {
                        "ProtocolName": "",
                        "StudyInstanceUID": f"1.3.{n}",
                        "FrameOfReferenceUID": f"1.4.{n}",
                    }
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
    """What a recipe cannot take by nature, or needs more for: the message, and the settings by
    which it goes on.
    """
    table = load_recipe(recipe).tables["data"]
    if table.get("dims") == 3 and kind in ("pictures", "table"):
        return "has 2 axes, but data.dims is 3. Allowed: volumes .NIfTI", None
    if "label_map" in str(table.get("intensity")):  # what is drawn here are no classes
        return "a label map contains .*from 0 to 4|needs one domain", None

    if table.get("labels"):
        more = ["data.labels=false", "method.conditional=false"]
        more += [f'evaluate.metrics=["{"psnr" if "pix2pix" in recipe else "kid"}"]'] * (
            "tumour" in recipe
        )
        return "the class of .* is not known.*set data.labels = false", more

    if table.get("mask"):
        lesion = recipe in ("missing", "pix2pix_lesion")
        more = ["data.mask=false", *["method.lesion=1.0"] * lesion]
        said = "no image has a lesion mask.*--set data.source.mask=seg.*--set data.mask=false"
        return said, more

    return "", []


def checked(data, recipe, kind, *settings, profile=None):
    """The settings under which a recipe goes with this data, and the first batch; None where it
    cannot by nature.
    """
    contrasts = (
        name for each in load_recipe(recipe).tables["data"]["domains"] for name in each.split("+")
    )
    path = data(tuple(dict.fromkeys(contrasts)), kind)
    says, over = refusal_of(recipe, kind)

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


@pytest.mark.quick_cases(*QUICK)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", NAMES)
def test_every_recipe_takes_any_data_or_says_its_needs(data, recipe, kind):
    _, _, found = checked(data, recipe, kind)
    if found:
        batch, used = found
        assert all(
            images.shape[2:] == (used.table.patch or used.table.size)
            for name, images in batch.items()
            if name in used.letters
        )
        given = {name: {record.subject for record in part} for name, part in used.splits.items()}
        assert kind != "table" or given == {
            "train": {"p0", "p1"},
            "validation": set(),
            "test": {"p2"},
        }


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", NAMES)
def test_every_recipe_trains_on_data_of_every_kind(data, recipe, kind, tmp_path):
    profile = "cpu" if "cpu" in load_recipe(recipe).tables.get("profile", {}) else None
    path, over, found = checked(data, recipe, kind, profile=profile)
    if found:
        small = [
            "train.steps=1",
            "train.batch=1",
            "evaluate.images=4",
            "evaluate.regression=0",
            *over,
        ]
        small += ["method.translate_steps=1"] * (recipe == "style_t1t2")
        run = gantk.run(
            recipe,
            data=path,
            set=small,
            profile=profile,
            out=tmp_path / "run",
            device="cpu",
            say=str,
        )
        assert (run.path / "report.html").exists()
        assert (run.path / "metrics.json").exists()
