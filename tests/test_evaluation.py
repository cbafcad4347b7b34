"""What metrics.json holds: every score with its rivals, lesions apart, the same whatever the batch, refused in time."""

from __future__ import annotations

import copy

import pytest
import torch

from gantk.comparison import compare_folders
from gantk.data.prepared import Data
from gantk.errors import UserError
from gantk.evaluation import Scorer
from gantk.held import Held, alarms, difference
from gantk.method import Geometry, Method
from gantk.metrics.scoring import scores_of
from gantk.metrics.sets import ImageGroup
from gantk.plugins import registry
from gantk.recipe import load_recipe
from gantk.runtime import Runtime
from gantk.spec import Part, bind_or_raise
from gantk.summary import summary_lines

CPU = Runtime(torch.device("cpu"), "fp32", False)


class Translates(Method):
    """Adds a little to the image, in both directions."""

    def translate(self, image, to):
        own = image.shape[1] // self.geometry.channels["a" if to == "b" else "b"]
        return (image * 0.9 + 0.05)[:, :: max(1, own)]


class Samples(Method):
    """Blurred noise around a bright middle; with classes a corner says which."""

    reads = ("image",)
    alike = False

    def sample(self, n, seed, labels=None):
        rng = torch.Generator().manual_seed(seed)
        shape = (n, self.geometry.channels["image"], *self.geometry.size)
        images = torch.rand(shape, generator=rng) * 1.6 - 0.8
        if labels is not None:
            images[:, :, :4, :4] = labels.float()[:, None, None, None]
        return images[:1].expand(shape).clone() if self.alike else images


class Conditional(Samples):
    """The same, asked for a class."""

    conditional = True


class Brighten:
    """A post-step that adds a tenth of the training images' mean brightness."""

    def __init__(self, dims, range):
        pass

    def __call__(self, images, examples):
        return images + 0.1 + 0 * examples(2).mean()


def scorer_of(tables: dict, method: type, **attributes) -> Scorer:
    """A scorer of the tiny phantom recipe with a method that has learned nothing."""
    model = load_recipe(tables).check()
    data = Data.load(model.data, method)
    low, high = data.range
    size = model.data.patch or model.data.size
    built = method(Geometry(model.data.dims, size, data.channels, data.classes, (low, high)))
    for name, value in attributes.items():
        setattr(built, name, value)
    return Scorer(model, data, built, CPU)


@pytest.fixture
def translation(tiny_recipe) -> dict:
    tiny_recipe["evaluate"] = {"samples": 2}
    return tiny_recipe


@pytest.fixture
def sampling(tiny_recipe) -> dict:
    tables = copy.deepcopy(tiny_recipe)
    tables["data"] |= {"domains": ["T1"]}
    tables["data"]["source"] |= {"subjects": 10, "slices": 3}
    tables["evaluate"] = {"samples": 2, "images": 20}
    return tables


def lesions(tables: dict) -> dict:
    tables["data"]["source"] |= {"subjects": 10, "slices": 3, "lesions": 3}
    return tables


def test_by_default_translations_are_scored_in_pairs_and_samples_by_kid(translation, sampling):
    result = scorer_of(translation, Translates).test()
    assert set(result["metrics"]) == {"a_to_b", "b_to_a"}
    assert list(result["metrics"]["a_to_b"]) == ["psnr", "ssim", "mae"]
    assert {"identity", "histogram"} <= set(result["baselines"]) and "real_split" not in result["baselines"]
    found = scorer_of(sampling, Samples).test()
    assert list(found["metrics"]) == ["image"] and list(found["metrics"]["image"]) == ["kid_random"]


def test_samples_stand_between_noise_and_real_images(sampling):
    sampling["evaluate"] |= {"metrics": ["kid", "fid", "diversity"]}
    result = scorer_of(sampling, Samples).test()
    row = result["metrics"]["image"]["kid_random"]
    assert row["n"] == 20 and row["ci95"][0] < row["value"] < row["ci95"][1] and "only-" in row["definition"]
    assert {"real_split", "noise"} == set(result["baselines"])
    split = result["baselines"]["real_split"]["image"]
    assert split["kid_random"]["value"] < row["value"]
    assert "training-images-as-if-made" in split["fid_random"]["definition"]
    verdict = result["verdict"]["image"]
    assert verdict["kid_random"]["best_baseline"] == "noise" and "diversity" not in verdict
    assert 0 <= verdict["kid_random"]["probability"] <= 1


def test_scores_of_samples_do_not_depend_on_the_batch(sampling):
    found = [scorer_of(sampling | {"translate": {"batch": batch}}, Samples).test() for batch in (1, 7, 16)]
    assert found[0]["metrics"] == found[1]["metrics"] == found[2]["metrics"]


def test_without_held_out_images_the_definition_says_so(sampling):
    sampling["data"]["split"] = {"test": 0.0, "validation": 0.0}
    result = scorer_of(sampling, Samples).test()
    assert "against-training-images" in result["metrics"]["image"]["kid_random"]["definition"]
    assert "real_split" not in result["baselines"]


def test_curves_of_samples_are_cheap_and_repeat(sampling):
    scorer = scorer_of(sampling, Samples)
    first = scorer.validate()
    assert set(first) == {"image"} and set(first["image"]) == {"kid_random"} and first == scorer.validate()
    assert scorer_of(sampling, Samples, alike=True).validate() != first


def test_curves_of_translations_are_psnr_and_ssim(translation):
    found = scorer_of(translation, Translates).validate()
    assert {key: set(scores) for key, scores in found.items()} == dict.fromkeys(("a_to_b", "b_to_a"), {"psnr", "ssim"})
    translation["evaluate"]["metrics"] = ["kid"]
    assert scorer_of(translation, Translates).validate() == {}


def test_sets_are_scored_for_translations_too(translation):
    translation["evaluate"]["metrics"] = ["psnr", "kid", "two_sample"]
    result = scorer_of(translation, Translates).test()
    row = result["metrics"]["a_to_b"]
    assert set(row) == {"psnr", "kid_random", "two_sample"}
    for name in ("identity", "histogram"):
        assert set(result["baselines"][name]["a_to_b"]) == set(row)
    assert set(result["baselines"]["real_split"]["a_to_b"]) == {"kid_random", "two_sample"}
    assert {"psnr", "kid_random"} <= set(result["verdict"]["a_to_b"])
    # two patients are tested here: too few for halves that share none, which is said instead of failing
    lines = "\n".join(summary_lines(result | {"domains": ["T1", "T2"]}))
    assert "T1 -> T2" in lines and "real_split" in lines


def test_every_registered_metric_says_what_it_is_and_scores_in_its_sense():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(24, 1, 24, 24, generator=generator).cumsum(-1) / 12
    far = torch.rand(truth.shape, generator=generator)
    near = truth + 0.02 * far.flip(0)
    labels = torch.arange(24) % 2
    for name in registry().names("metric"):
        quick = {"backbone": "small", "steps": 2, "side": 16} if name in ("classification", "two_sample") else {}
        metric = bind_or_raise("metric", {"name": name} | quick)(2.0, 2)
        assert metric.name.startswith(name) and metric.definition.startswith(name) and isinstance(metric.unit, str)
        if getattr(metric, "sets", False):
            sets = (truth[:12], truth[12:], near, far)
            groups = [ImageGroup(images, [""] * len(images), labels[: len(images)]) for images in sets]
            scores = [scores_of(metric, *groups[:2], fake)[metric.name].value for fake in groups[2:]]
        else:
            scores = [float(metric(images, truth).mean()) for images in (near, far)]
        if not quick and metric.higher_is_better is not None:
            assert (scores[0] > scores[1]) == metric.higher_is_better, name


def test_pair_metrics_of_samples_are_refused_before_training(sampling):
    sampling["evaluate"]["metrics"] = ["kid", "psnr"]
    with pytest.raises(UserError, match="psnr.*truth") as error:
        scorer_of(sampling, Samples)
    assert error.value.where == "evaluate.metrics"


# ---- lesions


def test_where_lesions_are_known_they_are_scored_apart_for_model_and_baselines(translation):
    result = scorer_of(lesions(translation), Translates).test()
    names = {"psnr", "ssim", "mae", "psnr_lesion", "ssim_lesion", "mae_lesion", "lesion_contrast"}
    for row in (result["metrics"]["a_to_b"], result["baselines"]["identity"]["a_to_b"]):
        assert set(row) == names
        assert row["psnr_lesion"]["definition"].endswith("/mask")
        assert row["psnr"]["images"] > row["psnr_lesion"]["images"] > 0
        assert row["psnr_lesion"]["value"] != row["psnr"]["value"]
    assert "psnr_lesion" in result["verdict"]["a_to_b"] and "lesion_contrast" not in result["verdict"]["a_to_b"]


def test_without_lesions_nothing_is_said_of_them(translation):
    assert not [name for name in scorer_of(translation, Translates).test()["metrics"]["a_to_b"] if "lesion" in name]


def test_lesion_contrast_is_one_where_kept_zero_where_gone():
    from gantk.metrics.lesions import LesionContrast

    truth, mask = torch.full((4, 2, 24, 24), 0.5), torch.zeros(4, 1, 24, 24)
    mask[:3, :, 10:14, 10:14] = 1
    truth[:2, :, 10:14, 10:14] += torch.tensor([0.4, -0.2])[:, None, None]
    output = 0.5 + 0.5 * (truth - 0.5)
    score = LesionContrast(2.0, 2)
    assert score(truth, truth, mask)[:2].tolist() == pytest.approx([1, 1])
    assert score(output, truth, mask)[:2].tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    assert score(torch.full_like(truth, 0.3), truth, mask)[:2].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert score(truth, truth, mask)[2:].isnan().all()  # invisible in the truth; no lesion
    far = output.clone()
    far[..., :4, :] = 9.0  # beyond the ring
    assert torch.equal(score(far, truth, mask)[:2], score(output, truth, mask)[:2])
    volume, solid = torch.rand(1, 1, 12, 12, 12), torch.zeros(1, 1, 12, 12, 12)
    solid[..., 4:8, 4:8, 4:8] = 1
    assert LesionContrast(2.0, 3)(volume + solid, volume + solid, solid).item() == pytest.approx(1)


# ---- post-steps, neighbours, windows


@pytest.mark.parametrize("kind", [Translates, Samples])
def test_post_steps_are_scored_beside_the_networks_own_output(kind, translation, sampling):
    tables = translation if kind is Translates else sampling
    model = load_recipe(tables).check()
    model = model.model_copy(update={"post": [Part("post", "brighten", Brighten, {})]})
    data = Data.load(model.data, kind)
    scorer = Scorer(model, data, kind(Geometry(2, model.data.size, data.channels)), CPU)
    result = scorer.test()
    key, metric = ("a_to_b", "psnr") if kind is Translates else ("image", "kid_random")
    assert result["metrics"][key][metric]["value"] != result["metrics"][f"{key}_post"][metric]["value"]
    assert f"{key}_post" in result["verdict"]
    assert all(f"{key}_post" not in rows for rows in result["baselines"].values())
    assert any("post-steps" in line for line in summary_lines(result | {"domains": ["T1", "T2"]}))


def test_neighbouring_slices_are_seen_by_the_network_and_not_scored(translation):
    translation["data"]["neighbours"] = 1
    translation["data"]["source"]["slices"] = 4
    model = load_recipe(translation).check()
    data = Data.load(model.data, Translates)
    assert data.channels == {"a": 3, "b": 3}

    class Keeps(Method):
        def translate(self, image, to):
            assert image.shape[1] == 3
            return image

    scorer = Scorer(model, data, Keeps(Geometry(2, model.data.size, data.channels)), CPU)
    held = scorer.held_out_samples()
    assert held.seen["a_to_b"].shape[1] == 3 and held.inputs["a_to_b"].shape[1] == held.truths["a_to_b"].shape[1] == 1
    assert torch.equal(scorer.outputs(held)["a_to_b"], held.inputs["a_to_b"])
    result = scorer.test()
    assert result["metrics"]["a_to_b"]["psnr"] == result["baselines"]["identity"]["a_to_b"]["psnr"]


@pytest.mark.parametrize(("statistics", "size"), [("image", (32, 32)), ("window", (16, 16))])
def test_images_larger_than_a_patch_go_through_whole_or_by_windows(translation, statistics, size):
    translation["data"]["patch"] = [16, 16]
    translation["translate"] = {"statistics": statistics}
    seen = []

    class Watches(Method):
        def translate(self, image, to):
            seen.append(tuple(image.shape[2:]))
            return image

    result = scorer_of(translation, Watches).test()
    assert seen[-1] == size
    psnr = result["metrics"]["a_to_b"]["psnr"]["value"]
    assert psnr == pytest.approx(result["baselines"]["identity"]["a_to_b"]["psnr"]["value"], abs=1e-3)


def test_samples_of_patches_are_compared_with_windows_of_real_images(sampling):
    sampling["data"]["patch"] = [16, 16]
    sampling["evaluate"]["metrics"] = ["kid"]
    result = scorer_of(sampling, Samples).test()
    assert result["metrics"]["image"]["kid_random"]["value"] is not None


def test_volumes_are_scored_like_slices(sampling):
    sampling["data"] |= {"dims": 3, "size": [16, 16, 16]}
    sampling["data"]["source"].pop("slices")
    result = scorer_of(sampling, Samples).test()
    row = result["metrics"]["image"]["kid_random"]
    assert "middle-slices" in row["definition"] and row["value"] is not None
    assert row["ci95"] is None  # two volumes are held out: one less says nothing


# ---- classes


def test_classification_needs_classes_and_says_so_before_training(sampling):
    sampling["evaluate"]["metrics"] = ["classification"]
    with pytest.raises(UserError, match="two classes") as error:
        scorer_of(sampling, Samples)
    assert error.value.where == "evaluate.metrics"
    with pytest.raises(UserError, match="mixture"):
        scorer_of(lesions(sampling), Samples)


QUICK = {"name": "classification", "backbone": "small", "steps": 5, "side": 16}


def test_conditional_samples_are_made_for_the_classes_in_turn(sampling):
    sampling["evaluate"]["metrics"] = [QUICK]
    lesions(sampling)["data"]["labels"] = True
    scorer = scorer_of(sampling, Conditional)
    result = scorer.test()
    rows = result["metrics"]["image"]
    assert set(rows) == {"classification", "classification_real", "classification_both"}
    assert "synthetic=20/" in rows["classification"]["definition"] and "auroc" in rows["classification"]["details"]
    fake = scorer._sampled(20)[0]
    assert fake.labels.tolist() == [0, 1] * 10
    assert fake.images[1, 0, 0, 0] - fake.images[0, 0, 0, 0] == pytest.approx(1.0)


def test_a_generator_of_one_class_is_tested_on_patients_of_both(sampling):
    sampling["evaluate"]["metrics"] = [QUICK]
    lesions(sampling)["data"]["source"] |= {"only": "tumour", "lesions": 8}
    scorer = scorer_of(sampling, Samples)
    assert scorer.reals.classes == ("healthy", "tumour")
    subjects = {split: {r.subject for r in scorer.reals.labelled(split, "image")} for split in ("train", "test")}
    assert subjects["train"].isdisjoint(subjects["test"])
    assert "+real-of-other-classes=" in scorer.test()["metrics"]["image"]["classification"]["definition"]


# ---- alarms


def test_the_collapse_alarm_rings_when_all_are_alike_and_is_quiet_otherwise(sampling, translation):
    healthy, dead = scorer_of(sampling, Samples), scorer_of(sampling, Samples, alike=True)
    held = healthy.held_out_samples()
    assert held.noise == 2 and held.differences["image"] > 0.01
    assert list(alarms(healthy.outputs(held), held)) == []
    assert [name for name, _ in alarms(dead.outputs(held), held)] == ["collapse"]
    scorer = scorer_of(translation, Translates)
    held = scorer.held_out_samples()
    assert list(alarms(scorer.outputs(held), held)) == []
    alike = {key: images[:1].expand_as(images) for key, images in scorer.outputs(held).items()}
    assert {name for name, _ in alarms(alike, held)} == {"collapse"}
    assert {name for name, _ in alarms(held.inputs, held)} == {"no-change"}


def test_real_images_do_not_ring_the_collapse_alarm(sampling):
    scorer = scorer_of(sampling, Samples)
    held = scorer.held_out_samples()
    real = scorer.reals.sets("image", (32, 32))[1].images
    assert list(alarms({"image": real[:4] - 1}, held)) == []


def test_difference_is_the_mean_over_all_pairs():
    x = torch.rand(4, 1, 5, 5)
    pairs = [(x[i] - x[j]).abs().mean() for i in range(4) for j in range(i)]
    assert difference(x) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-6)
    assert difference(x[:1]) == 0 and list(alarms({"image": x[:1]}, Held(noise=1))) == []


# ---- folders


def test_folders_are_compared_as_sets_whatever_their_names(tmp_path, pictures):
    pictures(tmp_path / "made", 6)
    for path in pictures(tmp_path / "real", 8, seed=9):
        path.rename(path.with_name(f"other-{path.name}"))
    rows = compare_folders(tmp_path / "made", tmp_path / "real", ["kid", "diversity"])["metrics"]["pred_to_truth"]
    assert set(rows) == {"kid_random", "diversity"} and "n=6,real=8" in rows["kid_random"]["definition"]
    with pytest.raises(UserError, match="same names"):
        compare_folders(tmp_path / "made", tmp_path / "real", ["kid", "psnr"])
    pictures(tmp_path / "large", 4, size=(48, 48))
    with pytest.raises(UserError, match="one size"):
        compare_folders(tmp_path / "large", tmp_path / "real", ["kid"])
