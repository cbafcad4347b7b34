"""What says whether to trust a result: inventions and erasures, copies, spreads that hold what they
state.
"""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import PATCHGAN, UNET, read_json, registered, small_run
from torch import Tensor, nn
from torch.nn import functional as F

import gantk as toolkit
from gantk import registry
from gantk.metrics.samples import SampleBatch, alarms
from gantk.metrics.sets import ImageGroup
from gantk.runs.results import Score
from gantk_trust.hallucination.sfrc import against_truth, candidates
from gantk_trust.memorisation.copies import copying
from gantk_trust.uncertainty.judging import judge_uncertainty
from gantk_trust.wrong_contrast import doubt_of_result

SFRC = registered("metric", "sfrc")
Memorisation = registered("metric", "memorisation")


def smooth(count: int, seed: int, side: int = 48) -> torch.Tensor:
    """Images (N, 1, side, side) of broad blobs, from about 0.2 to 1.8, with noise of 0.02."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 5, 5, generator=draw)
    images = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True) * 1.6 + 0.2
    return images + 0.02 * torch.randn(images.shape, generator=draw)


def with_disc(images: torch.Tensor, row: int, column: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(
        *[torch.arange(side) for side in images.shape[2:]], indexing="ij"
    )
    return images + 0.5 * (((rows - row) ** 2 + (columns - column) ** 2) <= 9)


@pytest.mark.parametrize("dims", [2, 3])
def test_sfrc_counts_the_patches_that_differ_by_more_than_noise(dims):
    slices = smooth(3, 1)
    noise = 0.02 * torch.randn(slices.shape, generator=torch.Generator().manual_seed(2))
    sets = [slices, slices + noise, with_disc(slices + noise, 20, 30)]
    if dims == 3:
        sets = [images.transpose(0, 1)[None] for images in sets]

    truth, noisy, planted = sets
    sfrc = SFRC(2.0, dims)

    assert sfrc(truth, truth).max() == 0
    assert sfrc(noisy, truth).max() == 0
    counted = sfrc(planted, truth)
    assert len(counted) == len(truth)
    assert 0 < counted.min() <= 0.2
    far_from_the_disc = (torch.arange(48) < 12).expand_as(truth).float()
    assert sfrc(planted, truth, far_from_the_disc).max() == 0
    # as published: noise is not the truth's
    assert SFRC(2.0, dims, floor=0.0)(noisy, truth).max() > 0


def test_inventions_are_the_first_candidates():
    truth = smooth(4, 3)
    output = truth.clone()
    output[2:3] = with_disc(truth[2:3], 16, 28)
    first, second = candidates(against_truth(output, truth, 2.0), 2, 8)

    assert first["image"] == 2
    assert abs(first["row"] - 16) <= 4
    assert abs(first["column"] - 28) <= 4
    assert first["score"] > 1.5 * second["score"]


def group(images: torch.Tensor, name: str) -> ImageGroup:
    return ImageGroup(images, [f"{name} {number}" for number in range(len(images))])


@pytest.fixture(scope="module")
def memorised():
    """The metric, and what it says of a copier and of an honest generator."""
    train = group(smooth(40, 4, 32), "t")
    held_out = group(smooth(40, 5, 32), "h")
    noise = 0.05 * torch.randn(30, 1, 32, 32, generator=torch.Generator().manual_seed(6))
    mirrored_moved_paler = 0.8 * train.images[:30].flip(-1).roll(1, 2) + 0.1
    copier = group(mirrored_moved_paler + noise, "c")
    honest = group(smooth(30, 7, 32), "f")
    metric = Memorisation(2.0, 2)
    of_copier = metric(train, held_out, copier)
    nearest = metric.nearest[0]
    return of_copier, metric(train, held_out, honest), nearest


def as_scores(scores) -> dict[str, Score]:
    return {name: Score(value=one.value, ci95=[*one.ci95]) for name, one in scores.items()}


def test_a_copier_is_told(memorised):
    scores, _, nearest = memorised
    assert scores["copied"].value == 1
    assert scores["copied"].ci95[0] > 0.5
    assert scores["distance_ratio"].value < 0.5
    assert scores["membership"].ci95[0] > 0.7
    assert nearest["patient"].startswith("t ")
    rows = as_scores(scores)
    assert "generated images" in copying(rows)
    assert "AUC" in copying({"membership": rows["membership"]})
    few = {name: Score(value=one.value) for name, one in rows.items()}
    assert "generated images" in copying(few), "of too few patients for an interval"


def test_unknown_patients_among_others_leave_no_interval():
    train = group(smooth(10, 4, 32), "t")
    held_out = group(smooth(10, 5, 32), "h")
    train.patients[-1] = ""
    found = Memorisation(2.0, 2)(train, held_out, group(smooth(4, 7, 32), "f"))
    assert [score.ci95 for score in found.values()] == [None] * 3


PATIENT_NAMES = [f"p{number // 2}" for number in range(8)]


@pytest.fixture
def overconfident():
    """Spreads, errors that are three times larger, such errors of other images, and the whole."""
    draw = np.random.default_rng(0)
    spread = draw.uniform(0.05, 0.4, (8, 1, 40, 40))
    errors, others = (np.abs(draw.normal(0, 3 * spread)) for _ in range(2))
    return spread, errors, others, np.ones_like(errors)


def test_calibrated_spread_holds_what_it_states(overconfident):
    spread, errors, others, inside = overconfident
    calibration = (others, spread, inside, PATIENT_NAMES)
    found = judge_uncertainty(errors, spread, inside, PATIENT_NAMES, 2.0, calibration).dump()

    assert found["scale"]["factor"] == pytest.approx(3, rel=0.05)
    assert found["scale"]["patients"] == 4
    assert found["coverage"]["value"] == pytest.approx(0.6827, abs=0.02)
    assert found["coverage"]["unscaled"] < 0.35
    assert 0.5 < found["auroc_10"]["value"] < 0.9


@pytest.mark.slow
def test_runs_keep_suspicious_patches_and_calibration(tmp_path, monkeypatch):
    method = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
    run = small_run(
        tmp_path, method, split={"test": 0.3, "validation": 0.3}, source={"subjects": 8}
    )
    scores = toolkit.evaluate(
        run, metrics=["sfrc"], uncertainty="auto", device="cpu", say=lambda line: None
    )

    assert 0 <= scores["metrics"]["a_to_b"]["sfrc_foreground"]["value"] <= 1
    kept = read_json(run / "hallucinations.json")["a_to_b"]
    assert kept == sorted(kept, key=lambda one: -one["score"])
    assert 0 < len(kept[0]["pictures"]) == 3
    assert "Suspicious patches" in toolkit.write_report(run).read_text("utf-8")

    factor = scores["uncertainty"]["a_to_b"]["scale"]["factor"]
    # which asks for no uncertainty
    toolkit.evaluate(run, metrics=["psnr"], device="cpu", say=lambda line: None)
    pixels = np.random.default_rng(0).uniform(0, 1, (1, 1, 32, 32)).astype(np.float32)
    model = toolkit.load(run, device="cpu")

    assert factor > 0
    scale = model.judged_uncertainty("b", "auto").scale
    assert (scale.factor, scale.patients) == (factor, 2)

    doubt = "gantk_trust.wrong_contrast.doubt_of_result"
    monkeypatch.setattr(doubt, lambda *of: f"is {of[1].shape}, {of[2].target}")
    nib.save(nib.Nifti1Image(pixels[0, 0][..., None], np.eye(4)), tmp_path / "scan.nii")
    said = []
    asked = {"uncertainty": "auto", "unjudged": True, "device": "cpu"}
    toolkit.translate(run, tmp_path / "scan.nii", tmp_path / "out.nii", say=said.append, **asked)

    assert any(line.startswith("warning  is (1, ") for line in said)
    assert f"scaled by {factor:.3g} to match errors, as fitted on 2" in " ".join(said)


@pytest.mark.slow
def test_copies_of_training_images_are_reported(tmp_path):
    method = {
        "name": "dcgan",
        "width": 4,
        "discriminator": {"name": "dcgan", "width": 4, "depth": 3},
    }
    run = small_run(
        tmp_path,
        method,
        domains=["T1"],
        source={"subjects": 12},
        split={"test": 0.4, "validation": 0.0},
    )
    told = toolkit.evaluate(run, metrics=["memorisation"], device="cpu", say=lambda line: None)[
        "metrics"
    ]["image"]

    assert {"copied", "distance_ratio", "membership"} <= told.keys()
    assert told["membership"]["ci95"]
    assert "Nearest training images" in toolkit.write_report(run).read_text("utf-8")


# ---- uncertainty maps are what they say


class Toy(nn.Module):
    """A two-way method of one weight."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.geometry = SimpleNamespace(range=(0.0, 1.0))
        self.eval()

    def translate(self, image: Tensor, to: str) -> Tensor:
        return image * self.scale if to == "b" else image / 3

    def directions(self) -> list[str]:
        return ["b", "a"]


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def maps(kind: str, image: Tensor) -> tuple[Tensor, Tensor]:
    return registry().get("uncertainty", kind).load()().maps(Toy(), "b", image)


@pytest.mark.parametrize("shape", [(5, 1, 6, 4), (5, 3, 6, 4), (3, 2, 5, 6, 4)], ids=str)
@pytest.mark.parametrize("kind", sorted({*registry().names("uncertainty")} - {"members"}))
def test_every_kind_gives_translation_and_uncertainty(kind, shape):
    image = images(*shape)
    before = torch.get_rng_state()
    plain, spread = maps(kind, image)

    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(plain, 2 * image)
    assert spread.shape == plain.shape
    assert spread.min() >= 0
    assert torch.isfinite(spread).all()
    assert spread.dtype == torch.float32

    parts = map(torch.cat, zip(*[maps(kind, part) for part in image.split(2)], strict=True))

    assert torch.equal(plain, next(parts))
    assert torch.allclose(spread, next(parts), atol=1e-6)


def test_errors_in_lesions_are_judged_apart(overconfident):
    spread, errors, _, inside = overconfident
    lesions = np.zeros_like(inside)
    lesions[2:, :, 10:20, 10:20] = 1  # of three of the four patients
    spread[lesions > 0] = 0.5 - spread[lesions > 0]  # sure where it is wrong
    found = judge_uncertainty(errors, spread, inside, PATIENT_NAMES, 2.0, lesions=lesions).dump()

    assert found["auroc_10"]["value"] > 0.5
    assert found["auroc_10_lesions"]["value"] < 0.5
    assert found["auroc_10_lesions"]["n"] == 3


def test_images_of_unknown_patients_are_judged_each():
    errors = np.tile([0.0, 1.0], (2, 1, 8, 4))
    spread = np.concatenate([errors[:1], 1 - errors[1:]])  # right in the first, wrong in the other
    inside = np.ones_like(errors)
    maps_of_two = (errors, spread, inside, ["", ""])
    found = judge_uncertainty(*maps_of_two, 2.0, maps_of_two, inside).dump()

    assert found["auroc_10_lesions"]["value"] == 0.5
    assert found["auroc_10_lesions"]["patients_unknown"]
    assert found["scale"].get("patients") is None


def test_inverted_contrast_raises_an_alarm_in_training():
    truth = smooth(4, 8)
    held = SampleBatch(inputs={"a_to_b": truth.flip(-1)}, truths={"a_to_b": truth})

    assert [name for name, _ in alarms({"a_to_b": 2 - truth}, held)] == ["inverted"]
    assert list(alarms({"a_to_b": truth}, held)) == []


def test_inverted_or_unchanged_translations_are_doubted():
    from gantk.data.look import values_of

    source = smooth(4, 8).numpy()
    target = source**3  # few pixels are bright
    values = {"source": values_of(list(source)), "target": values_of(list(target))}
    frame = SimpleNamespace(values=values, target="T2")
    inverted = values["target"]["high"] + values["target"]["low"] - target

    assert doubt_of_result(source[0], target[0], frame) is None
    assert "swapped" in doubt_of_result(source[0], inverted[0], frame)
    same = SimpleNamespace(values=values | {"target": values["source"]}, target="T2")
    assert "nothing" in doubt_of_result(source[0], source[0] + 0.001, same)


@pytest.mark.parametrize(
    ("name", "chance"), [("copied", 0), ("distance_ratio", 1), ("membership", 0.5)]
)
def test_an_honest_generator_is_no_copier(memorised, name, chance):
    _, scores, _ = memorised
    low, high = scores[name].ci95

    assert low < chance < high
    assert not copying(as_scores(scores))
