"""The source `generated`: a finished run's images as training images of another training."""

import numpy as np
import pytest
from tiny import PATCHGAN, UNET, read_json, small_run, train_without_scores

import gantk as package
from gantk import Data
from gantk.errors import UserError
from gantk.files import sha256_of
from gantk.recipe.load import load_recipe

TUMOURS = {"lesions": 1, "radius": [8.0, 16.0], "slices": 4, "subjects": 8}
JUDGE = {"name": "dcgan", "width": 4, "depth": 2}
DCGAN = {"name": "dcgan", "width": 4, "latent": 8, "discriminator": JUDGE}
NETWORKS = {"generator": UNET, "discriminator": PATCHGAN}


@pytest.fixture(scope="module")
def noise_run(tmp_path_factory):
    """A DCGAN that knows the classes."""
    folder = tmp_path_factory.mktemp("noise")
    method = DCGAN | {"conditional": True}
    return small_run(folder, method, domains=["FLAIR"], labels=True, source=TUMOURS)


def tables(run, **source) -> dict:
    """A Style Transfer GAN whose examples are that run's images."""
    return {
        "method": {"name": "style_gan", "examples": 4} | NETWORKS,
        "data": {
            "source": {"name": "generated", "path": str(run), "n": 6} | source,
            "domains": ["healthy", "tumour"],
            "size": [32, 32],
            "intensity": {"name": "window", "low": 0.0, "high": 400.0},
        },
        "train": {"steps": 2, "batch": 2, "precision": "fp32"},
        "evaluate": {"metrics": [{"name": "transfer", "steps": 2}], "samples": 1},
    }


def data_of(run, **source) -> Data:
    model = load_recipe(tables(run, **source)).check()
    return Data(model.data, model.method.target)


def split_of(run) -> dict:
    return read_json(run / "split.json")["splits"]


def native(records) -> np.ndarray:
    return np.stack([record.read() for record in records])


def of(records, domain: str) -> list:
    return [record for record in records if record.domain == domain]


def test_training_examples_are_the_samples_of_the_run(noise_run):
    examples = of(data_of(noise_run).training, "b")
    model = package.load(noise_run, device="cpu")

    assert np.array_equal(native(examples), model.sample(6, label="tumour", post=False))


def test_tested_images_are_real_and_of_patients_new_to_the_run(noise_run):
    data = data_of(noise_run)
    split = split_of(noise_run)
    for record in data.splits["test"]:
        assert record.label == {"a": "healthy", "b": "tumour"}[record.domain]
        assert record.subject in {entry["subject"] for entry in split["test"]}

    known = {entry["subject"] for entry in split["train"]}
    assert of(data.splits["test"], "b")
    given = "validation and test" if data.splits["validation"] else "test"
    assert data.split_description.startswith(f"{given} given by the folders or the table")
    assert known.isdisjoint(record.subject for record in data.splits["test"])
    assert {record.label for record in of(data.training, "a")} == {"healthy"}
    assert known.issuperset(record.subject for record in of(data.training, "a"))


@pytest.mark.slow
def test_a_chained_run_records_where_its_examples_come_from(noise_run, tmp_path):
    say = lambda line: None  # noqa: E731
    recipe = tables(noise_run)
    data = recipe["data"].pop("source")
    run = package.run(recipe, data=data["path"], out=tmp_path / "run", device="cpu", say=say)
    weights = next((noise_run / "checkpoints").glob("*/weights.safetensors"))
    environment = read_json(run.path / "environment.json")
    examples = [entry for entry in split_of(run.path)["train"] if entry["domain"] == "b"]

    assert environment["generated_by"]["sha256"] == sha256_of(weights)
    assert environment["generated_by"]["label"] == "tumour"
    assert examples[0]["path"] == str(weights)
    assert examples[0]["sha256"] == sha256_of(weights)
    assert all(entry["subject"] for entry in split_of(run.path)["set_aside"])
    package.evaluate(run.path, device="cpu", say=say)  # the images are found again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domains": ["no", "yes"]}, "have no class 'no'. Allowed: healthy, tumour."),
        ({"dims": 3, "size": [8, 32, 32]}, "the run generates images with dims = 2"),
        ({"source": {"path": ""}}, "the source 'generated' has no run. Use --data RUN"),
        ({"source": {"path": "nowhere"}}, "there is no folder 'nowhere'"),
    ],
)
def test_what_does_not_fit_is_refused(noise_run, change, message):
    recipe = tables(noise_run)
    recipe["data"]["source"] |= change.pop("source", {})
    recipe["data"] |= change
    model = load_recipe(recipe).check()
    with pytest.raises(UserError) as caught:
        Data(model.data, model.method.target)
    assert message in str(caught.value)


def test_folders_of_pictures_can_be_chained(pictures, tmp_path):
    for number, name in enumerate(("no", "yes")):
        pictures(tmp_path / "heads" / name, 8, seed=number)

    method = DCGAN | {"conditional": True}
    images = {"name": "images", "path": str(tmp_path / "heads")}
    data = {"domains": ["MR"], "labels": True, "size": [32, 32], "source": images}
    data["split"] = {"test": 0.25, "validation": 0.0, "by": "image"}
    recipe = {"method": method, "data": data, "train": {"steps": 1, "batch": 2}}
    recipe["evaluate"] = {"samples": 1, "images": 4}
    first = train_without_scores(recipe, tmp_path / "first")
    chained = tables(first)
    chained["data"]["domains"] = ["no", "yes"]
    chained["data"]["intensity"]["high"] = 255.0
    second = train_without_scores(chained, tmp_path / "second")
    sets = split_of(second)
    tested = {entry["path"] for entry in split_of(first)["test"]}

    assert len([entry for entry in sets["train"] if entry["domain"] == "b"]) == 6
    assert {entry["path"] for entry in sets["test"]} == tested
    assert all("yes" in entry["path"] for entry in sets["test"] if entry["domain"] == "b")
