"""A conditional Pix2Pix translates images as those of the class asked for, and of no other."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import draw_pictures, small_run

import gantk
from gantk import Model
from gantk.errors import UserError
from gantk.metrics.evaluate import Scorer
from gantk.metrics.validation import Validation
from gantk.runs.models import data_of

PIX2PIX = {
    "name": "pix2pix",
    "conditional": True,
    "generator": {"name": "unet", "width": 4, "depth": 2},
    "discriminator": {"name": "patchgan", "width": 4, "receptive_field": 16},
}
HEADS = {"subjects": 8, "slices": 3, "lesions": 1, "radius": [10.0, 20.0], "healthy": 0.5}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    return small_run(folder, PIX2PIX, 3, source=HEADS, domains=["T1", "FLAIR"], labels=True)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("picture"), 1)[0]


def pixels(path):
    return np.asarray(Image.open(path))


def test_a_translation_is_of_the_class_asked_for(gantk, run, picture, tmp_path):
    for label in ("healthy", "tumour"):
        gantk("translate", run, picture, tmp_path / f"{label}.png", "--label", label)
    gantk("translate", run, picture, tmp_path / "again.png", "--label", "tumour")

    assert not np.array_equal(pixels(tmp_path / "healthy.png"), pixels(tmp_path / "tumour.png"))
    assert np.array_equal(pixels(tmp_path / "again.png"), pixels(tmp_path / "tumour.png"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "no class is given"),
        (("--label", "benign"), "this run has no class 'benign'"),
    ],
)
def test_a_folder_without_a_valid_class_is_refused_first(
    gantk, run, picture, tmp_path, more, words
):
    told = gantk("translate", run, picture.parent, tmp_path / "out", *more).refused()

    assert words in told
    assert "healthy" in told
    assert "tumour" in told
    assert not (tmp_path / "out").exists()


def test_python_takes_a_class_for_each_image(run):
    model = gantk.load(run)
    image = np.random.default_rng(0).uniform(0, 200, (32, 32)).astype(np.float32)
    healthy, tumour = (model.translate(image, label=label) for label in ("healthy", "tumour"))
    tensor = torch.from_numpy(image)
    with_graph = model.translate(tensor.requires_grad_(), label="tumour")

    assert not np.allclose(healthy, tumour)
    np.testing.assert_allclose(with_graph.detach().numpy(), tumour, rtol=1e-3, atol=1e-2)
    with pytest.raises(UserError, match="no class is given.*--label tumour"):
        model.translate(tensor)


def test_evaluation_translates_each_image_as_its_own_class(run):
    model = Model.load(run, "cpu")
    data = data_of(model.run, model.recipe.data, type(model.method))
    scorer = Scorer(model.recipe, data, model.method, model.runtime)
    scorer.test()
    tested = scorer.tested["a_to_b"]
    labels = [pair["a"].label for pair in tested.pairs]
    by_hand = []
    other_class = []
    for pair, label in zip(tested.pairs, labels, strict=True):
        number = model.classes().index(label)
        image = data.image(pair["a"])[None]
        with torch.no_grad():
            by_hand.append(model.method.of_class(number).translate(image, "b"))
            other_class.append(model.method.of_class(1 - number).translate(image, "b"))

    assert set(labels) == {"healthy", "tumour"}
    torch.testing.assert_close(tested.made, torch.cat(by_hand), rtol=1e-3, atol=1e-4)
    assert (torch.cat(other_class) - tested.made).abs().amax((1, 2, 3)).min() > 1e-3
    validation = Validation(scorer)
    held = validation.sample_batch()
    shown = validation.samples(held).outputs["a_to_b"]
    named = [record.label for record in held.records["a_to_b"]]
    expected = scorer.translate(held.seen["a_to_b"], "b", held.records["a_to_b"])
    assert named[0] in labels
    assert torch.equal(shown, expected), "the samples of a training have their own classes"


def test_a_model_without_classes_takes_none(gantk, picture, tmp_path):
    run = small_run(tmp_path, PIX2PIX | {"conditional": False})
    told = gantk("translate", run, picture, tmp_path / "out.png", "--label", "tumour").refused()

    assert "no classes" in told


@pytest.mark.slow
def test_an_exported_file_translates_one_class(gantk, run, picture, tmp_path):
    file = tmp_path / "tumour.onnx"
    without = gantk("export", run, "--out", file)
    gantk("export", run, "--out", file, "--label", "tumour")
    gantk("translate", run, picture, tmp_path / "run.png", "--label", "tumour")
    gantk("translate", file, picture, tmp_path / "file.png")
    other = gantk("translate", file, picture, tmp_path / "no.png", "--label", "healthy")

    assert without.code == 2
    assert "--label tumour" in " ".join(without.err.split())
    difference = np.abs(
        pixels(tmp_path / "run.png").astype(int) - pixels(tmp_path / "file.png")
    ).max()
    assert difference <= 1
    assert other.code == 2
    assert "gantk export RUN --label healthy" in " ".join(other.err.split())
