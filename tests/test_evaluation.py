"""What metrics.json holds: every score with its baselines, lesions apart, the same whatever the batch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from gantk.data.dataset import Data
from gantk.data.preparation import Record
from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.method import Geometry, Method
from gantk.metrics.evaluate import SampleBatch, Scorer, alarms, difference
from gantk.metrics.references import units_of
from gantk.metrics.sets import ImageGroup, set_rows
from gantk.metrics.verdict import summary_lines
from gantk.plugin.loader import registry
from gantk.plugin.spec import Part, bind_or_raise
from gantk.recipe.load import load_recipe

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
    data = Data(model.data, method)
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
    rows = ["psnr", "ssim", "mae", "psnr_foreground", "ssim_foreground", "mae_foreground"]
    assert {key: list(found) for key, found in result["metrics"].items()} == {"a_to_b": rows, "b_to_a": rows}
    assert {"identity", "histogram"} <= set(result["baselines"]) and "real_split" not in result["baselines"]
    curves = scorer_of(translation, Translates).validate()
    assert {key: set(scores) for key, scores in curves.items()} == dict.fromkeys(("a_to_b", "b_to_a"), {"psnr", "ssim"})
    samples = scorer_of(sampling, Samples)
    found, curve = samples.test(), samples.validate()
    assert list(found["metrics"]) == ["image"] and list(found["metrics"]["image"]) == ["kid_random"]
    assert set(curve["image"]) == {"kid_random"} and curve == samples.validate()
    assert scorer_of(sampling, Samples, alike=True).validate() != curve


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


@pytest.mark.parametrize("case", ["nothing held out", "patches", "volumes"])
def test_samples_are_compared_with_whatever_real_images_there_are(sampling, case):
    if case == "volumes":
        sampling["data"] |= {"dims": 3, "size": [16, 16, 16]}
        sampling["data"]["source"].pop("slices")
    else:
        sampling["data"] |= {"patch": [16, 16]} if case == "patches" else {"split": {"test": 0.0, "validation": 0.0}}
    result = scorer_of(sampling, Samples).test()
    row = result["metrics"]["image"]["kid_random"]
    assert row["value"] is not None
    if case == "nothing held out":
        assert "against-training-images" in row["definition"] and "real_split" not in result["baselines"]
    if case == "volumes":  # two are held out: one less says nothing
        assert "middle-slices" in row["definition"] and row["ci95"] is None


@pytest.mark.parametrize(
    ("metrics", "tables", "where", "words"),
    [
        (["kid", "psnr"], {}, "evaluate.metrics", "psnr.*truth"),
        (["classification"], {}, "evaluate.metrics", "two classes"),
        (["classification"], {"lesions": 3}, "evaluate.metrics", "mixture"),
        (["ssim"], {"size": [8, 8]}, "data.size", "ssim cannot judge images of 8 x 8"),
        (["ms_ssim"], {"regions": ["foreground"]}, "evaluate.regions", "ms_ssim"),
    ],
    ids=["pairs of samples", "no classes", "mixture of classes", "too small", "no region"],
)
def test_what_cannot_be_scored_is_refused_before_training(translation, sampling, metrics, tables, where, words):
    of_pairs = "size" in tables or "regions" in tables
    recipe = translation if of_pairs else sampling
    recipe["evaluate"] |= {"metrics": metrics} | {k: v for k, v in tables.items() if k == "regions"}
    recipe["data"] |= {k: v for k, v in tables.items() if k == "size"}
    recipe["data"]["source"] |= {k: v for k, v in tables.items() if k == "lesions"}
    with pytest.raises(UserError, match=words) as error:
        scorer_of(recipe, Translates if of_pairs else Samples)
    assert error.value.where == where


def test_sets_are_scored_for_translations_too(translation):
    translation["evaluate"]["metrics"] = ["psnr", "kid", "two_sample"]
    result = scorer_of(translation, Translates).test()
    row = result["metrics"]["a_to_b"]
    assert set(row) == {"psnr", "psnr_foreground", "kid_random", "two_sample"}
    for name in ("identity", "histogram"):
        assert set(result["baselines"][name]["a_to_b"]) == set(row)
    assert set(result["baselines"]["real_split"]["a_to_b"]) == {"kid_random", "two_sample"}
    assert {"psnr", "kid_random"} <= set(result["verdict"]["a_to_b"])
    # two patients are tested here: too few for halves that share none, which is said instead of failing
    lines = "\n".join(summary_lines(result | {"domains": ["T1", "T2"]}))
    assert "T1 -> T2" in lines and "real_split" in lines


SECONDS = {"backbone": "small", "steps": 2, "side": 16}
SEGMENTS = {"steps": 2, "side": 16}
QUICKLY = {
    "classification": SECONDS,
    "two_sample": SECONDS,
    "segmentation": SEGMENTS,
    "lpips": {"weights": "random", "net": "squeeze"},
}


def test_every_registered_metric_says_what_it_is_and_scores_in_its_sense():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(24, 1, 32, 32, generator=generator).cumsum(-1) / 16
    far = torch.rand(truth.shape, generator=generator)
    near = truth + 0.02 * far.flip(0)
    labels = torch.arange(24) % 2
    for name in registry().names("metric"):
        quick = QUICKLY.get(name, {})
        metric = bind_or_raise("metric", {"name": name} | quick)(2.0, 2)
        assert metric.name.startswith(name) and metric.definition.startswith(name) and isinstance(metric.unit, str)
        if getattr(metric, "sets", False):
            sets = (truth[:12], truth[12:], near, far)
            masks = [(images > images.flatten(1).quantile(0.9)).float() for images in sets]
            groups = [ImageGroup(x, [""] * len(x), labels[: len(x)], m) for x, m in zip(sets, masks, strict=True)]
            found = [set_rows(metric, *groups[:2], fake, strict=True) for fake in groups[2:]]
            scores = [each.get(metric.name, next(iter(each.values())))["value"] for each in found]
        else:
            scores = [float(metric(images, truth).mean()) for images in (near, far)]
        if quick not in (SECONDS, SEGMENTS) and metric.higher_is_better is not None:
            assert (scores[0] > scores[1]) == metric.higher_is_better, name


# ---- lesions


def test_where_lesions_are_known_they_are_scored_apart_for_model_and_baselines(translation):
    result = scorer_of(lesions(translation), Translates).test()
    names = {name + suffix for name in ("psnr", "ssim", "mae") for suffix in ("", "_foreground", "_lesion")}
    names.add("lesion_contrast")
    for row in (result["metrics"]["a_to_b"], result["baselines"]["identity"]["a_to_b"]):
        assert set(row) == names
        assert row["psnr_lesion"]["definition"].endswith("/mask")
        assert row["psnr"]["images"] > row["psnr_lesion"]["images"] > 0
        assert row["psnr_lesion"]["value"] != row["psnr"]["value"]
    assert "psnr_lesion" in result["verdict"]["a_to_b"] and "lesion_contrast" not in result["verdict"]["a_to_b"]


# ---- regions, levels, units, rivals


def test_the_foreground_is_that_of_source_and_truth_and_the_same_for_all_rivals(translation):
    scorer = scorer_of(translation, Translates)
    pairs = scorer.data.pairs("test")
    shown = scorer.reals.shown([pair["a"] for pair in pairs])
    truth = scorer.reals.references(pairs, "b", shown)
    inside = (shown > -0.9) | (truth.images > -0.9)
    assert torch.equal(truth.foreground, inside) and 0.05 < inside.float().mean() < 0.95
    result = scorer.test()
    error = ((shown - truth.images).abs() * inside).flatten(1).sum(1) / inside.flatten(1).sum(1)
    row = result["baselines"]["identity"]["a_to_b"]["mae_foreground"]
    by_patient = {p: error[[q == p for q in truth.patients]].mean().item() for p in truth.patients}
    assert row["value"] == pytest.approx(sum(by_patient.values()) / len(by_patient), abs=1e-5)


@pytest.mark.parametrize(
    "intensity",
    [
        {"name": "percentile", "per": "set"},
        {"name": "percentile", "per": "volume"},
        {"name": "zscore", "per": "image"},
        {"name": "nyul", "per": "image"},
    ],
)
def test_native_units_are_those_of_the_files_whoever_decides_the_intensities(translation, intensity):
    translation["data"]["intensity"] = intensity
    scorer = scorer_of(translation, Translates)
    pairs = scorer.data.pairs("test")
    truth = scorer.reals.references(pairs, "b", scorer.reals.shown([pair["a"] for pair in pairs]))
    files = torch.stack([torch.from_numpy(scorer.data.preparation.to_size(pair["b"])) for pair in pairs])
    assert torch.allclose(truth.units.native(truth.images), files, atol=2e-3 * files.abs().max())
    result = scorer.test()
    for rows in (result["metrics"], result["baselines"]["identity"]):
        found = rows["a_to_b"]["mae"]["in_units"]
        assert found["unit"] == "native" and found["value"] > 0 and "in_units" not in rows["a_to_b"]["psnr"]
        assert found["definition"] == "mae/native-intensities/whole-image"


def test_hounsfield_units_are_named_where_the_domain_is_ct_and_its_values_are():
    from pathlib import Path
    from types import SimpleNamespace

    from gantk.data.intensity import Percentile, Window

    learnt, gray = Percentile(), Percentile()
    learnt.fit([np.array([[[-1024.0, 0.0, 1500.0]]])])
    gray.fit([np.array([[[0.0, 90.0, 255.0]]])])

    def unit(domain, mapping, path="ct.nii.gz"):
        table = SimpleNamespace(domains=("MR", domain))
        preparation = SimpleNamespace(mapping=lambda record, intensity: intensity)
        data = SimpleNamespace(letters=("a", "b"), table=table, intensity={"b": mapping}, preparation=preparation)
        return units_of(data, [Record("b", "p", "k", lambda: None, path=Path(path))] * 2, "b").name

    for domain in ("CT", "sCT", "CBCT", "low-dose CT", "ct_bone"):
        assert unit(domain, Window()) == unit(domain, learnt) == "HU"
    assert unit("CT", gray) == "native" and unit("CT", Window(low=0, high=255), "ct.png") == "native"
    for domain in ("T2", "MR", "octopus", "OCT", "PET"):
        assert unit(domain, Window()) == "native"


def test_regression_is_a_rival_where_it_is_asked_for_and_stands_apart_in_the_verdict(translation):
    assert "regression" not in scorer_of(translation, Translates).test()["baselines"]
    translation["evaluate"]["regression"] = 40
    result = scorer_of(translation, Translates).test()
    mae = {name: result["baselines"][name]["a_to_b"]["mae"]["value"] for name in ("regression", "identity")}
    assert mae["regression"] < mae["identity"]
    row = result["verdict"]["a_to_b"]["psnr"]
    assert row["best_baseline"] in ("regression", "intensity_map") and row["better"] is False
    assert row["without_pairs"]["best_baseline"] in ("identity", "histogram")


def test_baselines_learn_from_training_images_alone(translation, monkeypatch):
    scorer, seen = scorer_of(translation, Translates), []
    image = scorer.data.image
    monkeypatch.setattr(scorer.data, "image", lambda record: seen.append(record) or image(record))
    assert len(list(scorer.baselines("b"))) == 3
    train = {record.subject for record in scorer.data.splits["train"]}
    assert {record.subject for record in seen} == train and {record.domain for record in seen} == {"a", "b"}


class Breaks(Translates):
    """Divides by zero in one pixel of the first image."""

    def translate(self, image, to):
        made = super().translate(image, to).clone()
        made[0, 0, 0, 0] = torch.nan
        return made


def test_a_model_that_makes_nan_has_no_score_and_no_victory(translation):
    translation["evaluate"]["metrics"] = ["psnr", "kid"]
    scorer = scorer_of(translation, Breaks)
    result = scorer.test()
    rows, verdict = result["metrics"]["a_to_b"], result["verdict"]["a_to_b"]
    assert rows["psnr"]["value"] is None and "1 of 2 outputs hold NaN" in rows["psnr"]["definition"]
    assert rows["kid_random"]["value"] is None and "1 of 2 images hold NaN" in rows["kid_random"]["definition"]
    assert verdict["psnr"]["better"] is False and verdict["psnr"]["without_pairs"]["better"] is False
    assert result["baselines"]["identity"]["a_to_b"]["psnr"]["value"] > 0
    text = "\n".join(summary_lines(result | {"domains": ["T1", "T2"]}))
    assert "1 of 2 outputs hold NaN" in text
    assert "psnr" not in scorer.validate().get("a_to_b", {})
    held = scorer.sample_batch()
    assert {name for name, _ in alarms(scorer.outputs(held), held)} == {"not-finite"}


# ---- post-steps, neighbours, windows


@pytest.mark.parametrize("kind", [Translates, Samples])
def test_post_steps_are_scored_beside_the_networks_own_output(kind, translation, sampling):
    tables = translation if kind is Translates else sampling
    model = load_recipe(tables).check()
    model = model.model_copy(update={"post": [Part("post", "brighten", Brighten, {})]})
    data = Data(model.data, kind)
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
    data = Data(model.data, Translates)
    assert data.channels == {"a": 3, "b": 3}

    class Keeps(Method):
        def translate(self, image, to):
            assert image.shape[1] == 3
            return image

    scorer = Scorer(model, data, Keeps(Geometry(2, model.data.size, data.channels)), CPU)
    held = scorer.sample_batch()
    assert held.seen["a_to_b"].shape[1] == 3 and held.inputs["a_to_b"].shape[1] == held.truths["a_to_b"].shape[1] == 1
    assert torch.equal(scorer.outputs(held)["a_to_b"], held.inputs["a_to_b"])
    result = scorer.test()
    assert result["metrics"]["a_to_b"]["psnr"] == result["baselines"]["identity"]["a_to_b"]["psnr"]


# ---- classes


QUICK = {"name": "classification", "backbone": "small", "steps": 5, "side": 16}


def test_conditional_samples_are_made_for_the_classes_in_turn(sampling):
    sampling["evaluate"]["metrics"] = [QUICK]
    lesions(sampling)["data"]["labels"] = True
    scorer = scorer_of(sampling, Conditional)
    result = scorer.test()
    rows = result["metrics"]["image"]
    assert set(rows) == {"classification", "classification_real", "classification_both"}
    assert "synthetic=20/" in rows["classification"]["definition"] and "auroc" in rows["classification"]["details"]
    fake = scorer._sampled(torch.cat([scorer._sample_pass(first, 20) for first in (0, 16)]))
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


def test_the_alarms_ring_when_all_are_alike_or_nothing_changes_and_are_quiet_otherwise(sampling, translation):
    healthy, dead = scorer_of(sampling, Samples), scorer_of(sampling, Samples, alike=True)
    batch = healthy.sample_batch()
    assert batch.noise == 2 and batch.differences["image"] > 0.01
    assert list(alarms(healthy.outputs(batch), batch)) == []
    assert list(alarms({"image": healthy.reals.sets("image", (32, 32))[1].images[:4] - 1}, batch)) == []  # real ones
    assert [name for name, _ in alarms(dead.outputs(batch), batch)] == ["collapse"]
    scorer = scorer_of(translation, Translates)
    batch = scorer.sample_batch()
    assert list(alarms(scorer.outputs(batch), batch)) == []
    alike = {key: images[:1].expand_as(images) for key, images in scorer.outputs(batch).items()}
    assert {name for name, _ in alarms(alike, batch)} == {"collapse"}
    assert {name for name, _ in alarms(batch.inputs, batch)} == {"no-change"}
    x = torch.rand(4, 1, 5, 5)
    assert difference(x) == pytest.approx(
        np.mean([float((x[i] - x[j]).abs().mean()) for i in range(4) for j in range(i)])
    )
    assert difference(x[:1]) == 0 and list(alarms({"image": x[:1]}, SampleBatch(noise=1))) == []
