"""What metrics.json holds: every score with its baselines, lesions apart, the same whatever the
batch.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scorers import Keeps, Samples, scorer_of

from gantk import Record
from gantk.data.intensity import Percentile, Window
from gantk.errors import UserError
from gantk.method import Method
from gantk.metrics.baselines import HistogramMatching, IntensityMap
from gantk.metrics.references import units_of
from gantk.metrics.rows import returned_rows
from gantk.metrics.samples import alarms
from gantk.metrics.summary import summary_lines
from gantk.metrics.validation import Validation
from gantk.metrics.written import WrittenTranslations
from gantk.runs.results import Results

LESIONS = {"subjects": 10, "slices": 3, "lesions": 3}


class Translates(Method):
    """Adds a little to the image, in both directions."""

    def translate(self, image, to):
        return image * 0.9 + 0.05


class Breaks(Translates):
    """Divides by zero in one pixel of the first image."""

    def translate(self, image, to):
        made = super().translate(image, to).clone()
        made[0, 0, 0, 0] = torch.nan
        return made


class Alike(Samples):
    """One image over and over."""

    alike = True


class Brighten:
    """A post-step that adds a tenth of the training images' mean brightness."""

    def __init__(self, dims, range):
        pass

    def __call__(self, images, examples):
        return images + 0.1 + 0 * examples(2).mean()


def lines_of(result: dict) -> str:
    return "\n".join(summary_lines(Results.model_validate(result | {"domains": ["T1", "T2"]})))


# ---- translations


def identity_error_by_patient(shown, truth):
    """The mean absolute error of the shown images in the foreground, averaged over patients."""
    difference = (shown - truth.images).abs() * truth.foreground
    pixels = truth.foreground.flatten(1).sum(1)
    errors = difference.flatten(1).sum(1) / pixels
    of_patient = {}
    for patient, error in zip(truth.patients, errors.tolist(), strict=True):
        of_patient.setdefault(patient, []).append(error)
    return np.mean([np.mean(each) for each in of_patient.values()])


@pytest.fixture(scope="module")
def plain():
    """A scorer of translations, and what it found."""
    scorer = scorer_of(Translates)
    return scorer, scorer.test().dump()


def test_pair_scores_share_one_foreground_with_baselines(plain):
    scorer, result = plain
    pairs = scorer.data.pairs("test")
    shown = scorer.reals.scored_images([pair["a"] for pair in pairs])
    truth = scorer.reals.references(pairs, "b", shown)
    inside = (shown > -0.9) | (truth.images > -0.9)

    assert torch.equal(truth.foreground, inside)
    assert 0.05 < inside.float().mean() < 0.95

    row = result["baselines"]["identity"]["a_to_b"]["mae_foreground"]
    expected = identity_error_by_patient(shown, truth)

    assert row["value"] == pytest.approx(expected, abs=1e-5)


def test_baselines_are_fitted_on_training_images(plain):
    scorer, _ = plain
    fitted = dict(scorer.baselines("b"))
    asked = scorer.reals.scored_images([pair["a"] for pair in scorer.data.pairs("test")])

    def by_hand(split):
        pairs = scorer.data.pairs(split)
        sources, targets = (
            scorer.reals.scored_images([pair[letter] for pair in pairs]) for letter in "ab"
        )
        mapped = IntensityMap(zip(sources, targets, strict=True))(asked)
        return {"intensity_map": mapped, "histogram": HistogramMatching(targets)(asked)}

    for name, expected in by_hand("train").items():
        torch.testing.assert_close(fitted[name](asked), expected)
        assert not torch.allclose(fitted[name](asked), by_hand("test")[name], atol=0.01)


class Glows(Keeps):
    """Gives the input back, with gray air."""

    def translate(self, image, to):
        return torch.where(image == -1, -0.5, super().translate(image, to))


def test_validation_masks_what_the_written_images_mask():
    def validation_ssim(method, masked):
        scorer = scorer_of(method, source={"noise": 0.0})
        scorer.model.translate.masked = masked
        return Validation(scorer).validate()["a_to_b"]["ssim"]

    black_air = validation_ssim(Keeps, False)

    assert validation_ssim(Glows, False) < black_air - 0.05
    assert validation_ssim(Glows, True) == pytest.approx(black_air, abs=0.02)


def test_a_foreground_that_is_the_whole_image_raises_an_alarm(plain):
    result = (
        scorer_of(Translates, intensity={"name": "window", "low": -5000.0, "high": 600.0})
        .test()
        .dump()
    )
    said = "100% of all pixels count as foreground."

    assert said in result["alarms"]["a_to_b"]
    assert f"warning  T1 -> T2 and T2 -> T1: {said}" in " ".join(
        lines_of(result).split("\n" + 9 * " ")
    )
    assert "alarms" not in plain[1]


def test_swapped_bright_and_dark_raise_an_alarm(monkeypatch):
    scorer = scorer_of(Translates)
    references = scorer.reals.references

    def of_inverted(pairs, to, sources=None):
        found = references(pairs, to, sources)
        return replace(found, images=-sources)

    monkeypatch.setattr(scorer.reals, "references", of_inverted)
    said = scorer.test().dump()["alarms"]["a_to_b"]
    assert "bright and dark are swapped" in said


def test_translations_have_default_metrics_and_baselines(plain):
    scorer, result = plain
    rows = ["psnr", "ssim", "mae", "psnr_foreground", "ssim_foreground", "mae_foreground"]

    assert list(result["metrics"]["a_to_b"]) == rows
    assert list(result["metrics"]["b_to_a"]) == rows
    assert set(result["metrics"]) == {"a_to_b", "b_to_a"}
    assert set(result["baselines"]) == {"identity", "histogram", "intensity_map"}
    curves = {key: set(scores) for key, scores in Validation(scorer).validate().items()}
    assert curves == {"a_to_b": {"psnr", "ssim"}, "b_to_a": {"psnr", "ssim"}}


def test_lesions_are_scored_apart_for_model_and_baselines():
    result = scorer_of(Translates, source=LESIONS).test().dump()
    of_model = result["metrics"]["a_to_b"]
    of_identity = result["baselines"]["identity"]["a_to_b"]
    for rows in (of_model, of_identity):
        assert {"psnr_lesion", "ssim_lesion", "mae_lesion", "lesion_contrast"} <= set(rows)
        assert rows["psnr"]["images"] > rows["psnr_lesion"]["images"] > 0
        assert rows["psnr_lesion"]["value"] != rows["psnr"]["value"]

    verdict = result["verdict"]["a_to_b"]

    assert "psnr_lesion" in verdict
    assert "lesion_contrast" not in verdict


@pytest.fixture(scope="module")
def broken():
    """A scorer of a model that makes NaN, and what it found."""
    scorer = scorer_of(Breaks, "psnr", "kid")
    return scorer, scorer.test().dump()


def test_nan_has_no_score_and_no_victory(broken):
    _, result = broken
    rows = result["metrics"]["a_to_b"]

    assert rows["psnr"]["value"] is None
    assert "1 of 2 outputs contain NaN" in rows["psnr"]["definition"]
    assert rows["kid_random"]["value"] is None
    assert "1 of 2 images contain NaN" in rows["kid_random"]["definition"]
    verdict = result["verdict"]["a_to_b"]["psnr"]
    assert verdict["better"] is False
    assert verdict["without_pairs"]["better"] is False
    assert "1 of 2 outputs contain NaN" in lines_of(result)


def test_nan_raises_an_alarm_and_leaves_no_curve(broken):
    scorer, _ = broken
    assert "psnr" not in Validation(scorer).validate().get("a_to_b", {})

    validation = Validation(scorer)
    held = validation.sample_batch()
    rung = {name for name, _ in alarms(validation.samples(held).outputs, held)}

    assert rung == {"not-finite"}


def test_a_translation_is_that_of_its_source_in_any_order():
    scorer = scorer_of(Keeps, source={"slices": 3})
    translate = WrittenTranslations(scorer.model, scorer.data, scorer.method, scorer.runtime)
    records = [pair["a"] for pair in scorer.data.pairs("test")]
    sources = records[::-2] + records[-2::-2]  # from top to bottom, every second slice first
    written = translate(sources, "b")

    assert len(sources) > 2
    torch.testing.assert_close(
        written.images, scorer.reals.scored_images(sources), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(
    ("name", "per"), [("percentile", "set"), ("percentile", "volume"), ("nyul", "volume")]
)
def test_native_units_are_those_of_the_files(name, per):
    scorer = scorer_of(Translates, intensity={"name": name, "per": per})
    pairs = scorer.data.pairs("test")
    shown = scorer.reals.scored_images([pair["a"] for pair in pairs])
    truth = scorer.reals.references(pairs, "b", shown)
    to_size = scorer.data.preparation.to_size
    files = torch.stack([torch.from_numpy(to_size(pair["b"])) for pair in pairs])
    native = truth.units.native(truth.images)

    assert torch.allclose(native, files, atol=2e-3 * files.abs().max())


def test_hounsfield_units_are_named_for_ct_domains():
    learnt = Percentile()
    gray = Percentile()
    learnt.fit([np.array([[[-1024.0, 0.0, 1500.0]]])])
    gray.fit([np.array([[[0.0, 90.0, 255.0]]])])

    def unit(domain, mapping, path="ct.nii.gz"):
        table = SimpleNamespace(domains=("MR", domain))
        preparation = SimpleNamespace(mapping=lambda record, intensity: intensity)
        data = SimpleNamespace(
            letters=("a", "b"), table=table, intensity={"b": mapping}, preparation=preparation
        )
        return units_of(data, [Record("b", "p", "k", lambda: None, path=Path(path))] * 2, "b").name

    for domain in ("CT", "sCT", "sct", "PCT", "CBCT", "ldct", "low-dose CT", "ct_bone"):
        assert unit(domain, Window()) == unit(domain, learnt) == "HU"

    assert unit("PET/CT", Window()) == "native"
    assert unit("CT", gray) == unit("octopus", Window()) == unit("OCT", Window()) == "native"
    assert unit("CT", Window(low=0, high=255), "ct.png") == "native"


@pytest.mark.slow
def test_baselines_learn_from_training_images_only(
    monkeypatch,
):
    scorer = scorer_of(Translates, evaluate={"regression": 40})
    seen = []
    result = scorer.test().dump()
    mae = {
        name: result["baselines"][name]["a_to_b"]["mae"]["value"]
        for name in ("regression", "identity")
    }

    assert mae["regression"] < mae["identity"]
    assert result["baseline_steps"] == 40
    row = result["verdict"]["a_to_b"]["psnr"]
    assert row["best_baseline"] in ("regression", "intensity_map")
    assert row["better"] is False
    assert row["without_pairs"]["best_baseline"] in ("identity", "histogram")

    image = scorer.data.image
    monkeypatch.setattr(scorer.data, "image", lambda record: seen.append(record) or image(record))

    assert len(list(scorer.baselines("b"))) == 4
    assert {record.subject for record in seen} == {
        record.subject for record in scorer.data.splits["train"]
    }
    assert {record.domain for record in seen} == {"a", "b"}


# ---- images from noise


def test_samples_stand_between_noise_and_real_images():
    scorer = scorer_of(Samples, "kid", "fid", "diversity")
    result = scorer.test().dump()
    row = result["metrics"]["image"]["kid_random"]
    split = result["baselines"]["real_split"]["image"]

    assert row["n"] == 20
    assert row["ci95"] is None, "of the real images of two patients"
    assert {"real_split", "noise"} == set(result["baselines"])
    assert split["kid_random"]["value"] < row["value"]
    assert result["verdict"]["image"]["kid_random"]["best_baseline"] == "noise"
    many = {"test": 0.2, "validation": 0.6}
    passes = [scorer.sample_pass(first, 20) for first in (0, 16)]
    assert len(torch.cat(passes).unique(dim=0)) == 20
    curve = Validation(scorer_of(Samples, split=many)).validate()
    assert set(curve["image"]) == {"kid_random"}
    same = scorer_of(Samples, "kid", "fid", "diversity", split=many)
    assert curve == Validation(same).validate()
    assert Validation(scorer_of(Alike, split=many)).validate() != curve


def test_samples_are_compared_with_available_real_images():
    result = scorer_of(Samples, split={"test": 0.0, "validation": 0.0}).test().dump()
    assert list(result["metrics"]["image"]) == ["kid_random"]
    assert "real_split" not in result["baselines"]
    assert "against-training-images" in result["metrics"]["image"]["kid_random"]["definition"]
    assert (
        scorer_of(Samples, patch=[16, 16]).test().dump()["metrics"]["image"]["kid_random"]["value"]
        is not None
    )
    solid = (
        scorer_of(Samples, dims=3, size=[16, 16, 16], source={"slices": None})
        .test()
        .dump()["metrics"]["image"]
    )
    assert solid["kid_random"]["value"] is not None  # two are held out: one less says nothing
    assert solid["kid_random"]["ci95"] is None


# ---- both


REFUSED = {
    "pairs of samples": (Samples, ["kid", "psnr"], {}, "evaluate.metrics", "psnr.*truth"),
    "no classes": (Samples, ["classification"], {}, "evaluate.metrics", "two classes"),
    "mixture of classes": (
        Samples,
        ["classification"],
        {"source": LESIONS},
        "evaluate.metrics",
        "mixture",
    ),
    "too small": (
        Translates,
        ["ssim"],
        {"size": [8, 8]},
        "data.size",
        "8 x 8 are too small.* ssim.*or other metrics",
    ),
    "no region": (
        Translates,
        ["ms_ssim"],
        {"evaluate": {"regions": ["foreground"]}},
        "evaluate.regions",
        "ms_ssim",
    ),
    "no masks": (
        Translates,
        ["segmentation"],
        {},
        "evaluate.metrics",
        "lesion masks in the test set",
    ),
    "masks of noise": (
        Samples,
        ["segmentation"],
        {"source": LESIONS},
        "evaluate.metrics",
        "needs translations",
    ),
}


@pytest.mark.parametrize(
    ("method", "metrics", "tables", "where", "words"), REFUSED.values(), ids=REFUSED
)
def test_what_cannot_be_scored_is_refused_before_training(method, metrics, tables, where, words):
    with pytest.raises(UserError, match=words) as error:
        scorer_of(method, *metrics, **tables)
    assert error.value.where == where


@pytest.mark.parametrize(
    ("method", "key", "metric"),
    [(Translates, "a_to_b", "psnr"), (Samples, "image", "kid_random")],
)
def test_post_steps_are_scored_beside_the_networks_own_output(method, key, metric):
    results = scorer_of(method, post=[Brighten]).test()
    result = results.dump()
    own = result["metrics"][key][metric]
    after = result["metrics"][f"{key}_post"][metric]

    assert own["value"] != after["value"]
    assert f"{key}_post" in result["verdict"]
    shown = {row.key for row in returned_rows(results)}
    assert f"{key}_post" in shown
    assert key not in shown
    for rows in result["baselines"].values():
        assert f"{key}_post" not in rows


def alarms_of(images, batch):
    return {name for name, _ in alarms(images, batch)}


def test_alarms_ring_for_equal_samples_only():
    healthy = scorer_of(Samples)
    validation = Validation(healthy)
    batch = validation.sample_batch()

    assert batch.noise == 2
    assert batch.differences["image"] > 0.01
    assert alarms_of(validation.samples(batch).outputs, batch) == set()
    real = healthy.reals.sets("image", (32, 32))[1]
    assert alarms_of({"image": real.images[:4] - 1}, batch) == set()
    assert alarms_of(Validation(scorer_of(Alike)).samples(batch).outputs, batch) == {"collapse"}


def test_alarms_ring_for_equal_or_unchanged_translations_only():
    scorer = scorer_of(Translates)
    validation = Validation(scorer)
    batch = validation.sample_batch()
    outputs = validation.samples(batch).outputs

    assert alarms_of(outputs, batch) == set()
    alike = {key: images[:1].expand_as(images) for key, images in outputs.items()}
    assert alarms_of(alike, batch) == {"collapse"}
    assert alarms_of(batch.inputs, batch) == {"no-change"}


def test_neighbouring_slices_are_seen_but_not_scored():
    scorer = scorer_of(Keeps, neighbours=1, source={"slices": 4})
    validation = Validation(scorer)
    held = validation.sample_batch()
    inputs = held.inputs["a_to_b"]

    assert held.seen["a_to_b"].shape[1] == 3
    assert inputs.shape[1] == 1
    assert held.truths["a_to_b"].shape[1] == 1
    assert torch.equal(validation.samples(held).outputs["a_to_b"], inputs)

    result = scorer.test().dump()
    identity = result["baselines"]["identity"]["a_to_b"]

    assert result["metrics"]["a_to_b"]["psnr"]["value"] == identity["psnr"]["value"]
