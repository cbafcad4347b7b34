"""What a run with style transfer records and shows: losses of every step, intensities, accuracies;
and which VGG19 it uses.
"""

import json

import pytest
import torch
from pages import Page
from tiny import read_json

import gantk as package
from gantk.errors import UserError
from gantk.plugin.spec import bind

SHALLOW = {"content_layers": ["conv1_2"], "style_layers": ["conv1_1"]}
STYLE = {"name": "style", "role": "style", "weights": "random", "steps": 3} | SHALLOW
JUDGE = {"name": "dcgan", "width": 4, "depth": 2}
RECIPE = {
    "paper": {
        "title": "A report",
        "published": {"accuracy": 0.956, "accuracy_without_style_transfer": 0.875},
    },
    "method": {
        "name": "dcgan",
        "width": 4,
        "latent": 8,
        "conditional": True,
        "discriminator": JUDGE,
    },
    "data": {
        "source": {
            "name": "phantom",
            "subjects": 8,
            "slices": 4,
            "lesions": 1,
            "radius": [8.0, 16.0],
        },
        "domains": ["FLAIR"],
        "labels": True,
        "size": [32, 32],
        "split": {"test": 0.25, "validation": 0.0},
    },
    "train": {"steps": 1, "batch": 2, "precision": "fp32"},
    "evaluate": {
        "metrics": [{"name": "classification", "steps": 2, "classifiers": 1}],
        "images": 6,
        "samples": 1,
    },
    "post": [STYLE],
}


@pytest.fixture(scope="module")
def styled(tmp_path_factory):
    """A run from noise with style transfer, and what it printed."""
    lines = []
    folder = tmp_path_factory.mktemp("styled") / "run"
    run = package.run(RECIPE, out=folder, device="cpu", say=lines.append)
    return run.path, "\n".join(map(str, lines))


@pytest.fixture(scope="module")
def scores(styled) -> dict:
    return read_json(styled[0] / "metrics.json")


def test_losses_of_every_step_are_recorded(scores):
    (record,) = scores["post"]["image"]
    content, style = record["curves"]["content"], record["curves"]["style"]

    assert record["images"] == 6
    assert len(content) == len(style) == 1 + STYLE["steps"]  # before each step and after the last
    assert content[0] == 0  # the real image is the start, and its content the target
    assert style[-1] < style[0]


def test_intensities_of_real_and_generated_images_are_kept(styled, scores):
    row = scores["values"]["image"]
    tested = read_json(styled[0] / "split.json")["splits"]["test"]
    assert row["images"] == {"real": len(tested), "generated": 6, "generated_post": 6}
    for shares in row["shares"].values():
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert len(shares) == len(row["edges"]) - 1

    # the result shows real anatomy in its own intensities, after one training step unlike noise
    assert row["distance"]["generated_post"] < row["distance"]["generated"]


def test_the_report_draws_losses_intensities_and_accuracies(styled, scores):
    text = Page(styled[0] / "report.html").words
    for said in (
        "style: content loss, mean of 6 images",
        "Intensities of real and generated images",
        "after the post-steps, distance",
        "Published, undefined: Accuracy 0.956",
    ):
        assert said in text, said

    accuracy = scores["metrics"]["image_post"]["classification"]["details"]["accuracy"]["value"]
    assert f"accuracy {accuracy:.3f}" in text


def test_samples_and_stylized_files_come_with_their_losses(styled, gantk, pictures, tmp_path):
    out = tmp_path / "samples"
    gantk("sample", styled[0], "-n", 2, "--out", out, "--device", "cpu").ok()
    (record,) = read_json(out / "post.json")
    assert record["images"] == 2

    first, second = pictures(tmp_path / "pictures", 2)
    options = [f"--set={name}={json.dumps(each)}" for name, each in SHALLOW.items()]
    options += ["--weights", "random", "--steps", 2, "--device", "cpu"]
    done = gantk("stylize", first, second, tmp_path / "out.png", *options)

    assert done.code == 0, done.err
    assert "random filters" in done.out
    assert "losses   content " in done.out


def test_missing_weights_are_an_error_before_the_training(tmp_path, monkeypatch):
    monkeypatch.delenv("GANTK_WEIGHTS", raising=False)
    recipe = RECIPE | {"post": [STYLE | {"weights": "pretrained"}]}
    with pytest.raises(UserError) as caught:
        package.run(recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)

    assert "vgg19.tv_in1k.safetensors" in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_published_recipe_runs_with_a_file_of_vgg19(tmp_path, monkeypatch):
    """A file with the names and shapes of torchvision's VGG19, whose dense layers take a quarter."""
    import timm

    with torch.device("meta"):
        shapes = timm.create_model("vgg19.tv_in1k").state_dict()

    draw = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in shapes.items():
        if name.startswith("features"):
            state[name] = 0.05 * torch.randn(tensor.shape, generator=draw)
        else:
            state[name] = torch.zeros(tensor.shape, dtype=torch.int8)

    torch.save(state, tmp_path / "vgg19.tv_in1k.pth")
    monkeypatch.setenv("GANTK_WEIGHTS", str(tmp_path))
    lines = []
    source = RECIPE["data"]["source"]
    changes = {
        "data.source": source,
        "method.width": 4,
        "method.discriminator.width": 4,
        "train.epochs": 1,
        "train.batch": 8,
        "evaluate.images": 2,
        "evaluate.samples": 1,
        "evaluate.metrics": ["kid"],
        "post": [{"name": "style", "role": "style", "rescale": True, "steps": 2}],
    }
    run = package.run(
        "dcgan_tumour_style", set=changes, out=tmp_path / "run", device="cpu", say=lines.append
    )
    step = bind("post", changes["post"][0])(2, (-1.0, 1.0))

    assert not any("random filters" in str(line) for line in lines)
    for name, own in {"conv1_1": "features.0", "conv5_1": "features.28"}.items():
        assert torch.equal(step.encoder.blocks[name].weight, state[f"{own}.weight"])

    scores = read_json(run.path / "metrics.json")
    curve = scores["post"]["image"][0]["curves"]["style"]
    assert len(curve) == 3
    assert curve[-1] < curve[0]
