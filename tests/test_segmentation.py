"""Segmentation agreement: Dice as it is defined, lesions that were erased are missed, no judge knows its patient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gantk.data.dataset import Data
from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.method import Geometry, Method
from gantk.metrics.evaluate import Scorer
from gantk.metrics.reals import RealImages
from gantk.metrics.sets import ImageGroup, halves
from gantk.recipe.load import load_recipe
from gantk_tasks import segmentation
from gantk_tasks.segmentation import Segmentation, Segmenter, agreement, dice_loss

QUICK = {"steps": 16, "side": 16}
CPU = Runtime(torch.device("cpu"), "fp32", False)


def patients(count: int, seed: int, named: str, shape: tuple[int, ...] = (16, 16)) -> ImageGroup:
    """Dark noise from 0 to 2; every image but each third shows a bright block at a random place, which is its mask."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 0.8, (count, 1, *shape)).astype(np.float32)
    masks = np.zeros_like(images)
    for number in range(count):
        if number % 3 < 2:
            corner = [rng.integers(2, side - 6) for side in shape]
            box = (number, 0, *(slice(at, at + 4) for at in corner))
            images[box] += 1.0
            masks[box] = 1
    names = [f"{named}{i // 3}" if named else "" for i in range(count)]
    return ImageGroup(torch.from_numpy(images), names, None, torch.from_numpy(masks))


def erased(group: ImageGroup) -> ImageGroup:
    return ImageGroup(group.images - group.masks, group.patients, None, group.masks)


def translated(group: ImageGroup) -> ImageGroup:
    """A little noise on the same patients."""
    noise = 0.05 * torch.rand(group.images.shape, generator=torch.Generator().manual_seed(9))
    return ImageGroup(group.images + noise, group.patients, None, group.masks)


@pytest.fixture
def learned(monkeypatch) -> list[list[bytes]]:
    """The images that each segmenter learned from, as bytes."""
    seen, fit = [], Segmenter.fit

    def watched(self, images, masks):
        seen.append([image.numpy().tobytes() for image in images])
        return fit(self, images, masks)

    monkeypatch.setattr(Segmenter, "fit", watched)
    return seen


def owners(*groups: ImageGroup) -> dict[bytes, str]:
    return {i.numpy().tobytes(): p for g in groups for i, p in zip(g.images, g.patients, strict=True)}


# ---- Dice


def group_of(masks: list[list[int]], names: list[str]) -> ImageGroup:
    drawn = torch.tensor(masks, dtype=torch.float32)[:, None, None]
    return ImageGroup(torch.zeros_like(drawn), names, None, drawn)


def found(*answers: list[int]) -> torch.Tensor:
    return torch.tensor(answers, dtype=torch.bool)[:, None, None]


@pytest.mark.parametrize(
    ("answer", "truth", "dice"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
        ([1, 0, 0, 0], [1, 1, 0, 0], 2 / 3),
        ([1, 1, 1, 1], [1, 1, 0, 0], 2 / 3),
        ([0, 1, 1, 0], [1, 1, 0, 0], 0.5),
        ([0, 0, 1, 1], [1, 1, 0, 0], 0.0),
        ([0, 0, 0, 0], [1, 1, 0, 0], 0.0),
    ],
)
def test_dice_has_its_closed_form(answer, truth, dice):
    score = agreement([(found(answer), group_of([truth], ["p"]))])
    assert score.value == pytest.approx(dice) and score.patients == 1 and score.ci95 is None


def test_dice_is_pooled_over_a_patient_and_averaged_over_patients():
    truth = group_of([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], ["p", "p", "q"])
    score = agreement([(found([1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]), truth)])
    assert score.value == pytest.approx((4 / 5 + 0) / 2)  # p: 2 x 2 shared of 3 found and 2 drawn; q: missed
    assert score.details["found"]["value"] == pytest.approx((2 / 2 + 0 / 1) / 2)
    assert score.details["false_alarms"]["value"] == 1.0
    assert score.ci95[0] <= score.value <= score.ci95[1]
    split = [
        (found([1, 1, 0, 0]), group_of([[1, 1, 0, 0]], ["p"])),
        (found([1, 0, 0, 0], [0] * 4), group_of([[0] * 4, [1, 0, 0, 0]], ["p", "q"])),
    ]
    assert agreement(split) == score  # the same answers in two parts


def test_patients_without_a_lesion_are_left_out_and_counted_as_alarms():
    truth = group_of([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]], ["healthy", "well", "ill"])
    score = agreement([(found([1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]), truth)])
    assert score.value == 1.0 and score.patients == 1
    assert score.details["false_alarms"]["value"] == pytest.approx(0.5)
    healthy = agreement([(found([0, 0, 0, 0]), group_of([[0, 0, 0, 0]], [""]))])
    assert healthy.value is None and healthy.patients == 0 and healthy.details["found"]["value"] is None


def test_unknown_patients_stand_for_themselves():
    truth = group_of([[1, 0], [1, 0]], ["", ""])
    assert agreement([(found([1, 0], [0, 0]), truth)]).value == pytest.approx(0.5)
    assert agreement([(found([1, 0]), group_of([[1, 0]], [""])), (found([0, 0]), group_of([[1, 0]], [""]))]) == (
        agreement([(found([1, 0], [0, 0]), truth)])
    )


def test_the_loss_falls_to_zero_where_likelihoods_are_the_masks():
    masks = torch.tensor([[1.0, 1, 0, 0]])
    right, wrong = (dice_loss(sign * 50 * (2 * masks - 1), masks).item() for sign in (1, -1))
    assert right == pytest.approx(0, abs=1e-6) and wrong == pytest.approx(1 - 1 / 5)
    half = dice_loss(torch.zeros(1, 4), masks).item()
    assert half == pytest.approx(1 - (2 * 1 + 1) / (4 * 0.25 + 2 + 1))
    assert dice_loss(torch.full((1, 4), -50.0), torch.zeros(1, 4)).item() == pytest.approx(0, abs=1e-6)


# ---- the metric


def test_translations_that_keep_lesions_score_higher_than_those_that_erase_them():
    train, test = patients(24, 0, "p"), patients(18, 1, "q")
    metric = Segmentation(2.0, 2, **QUICK)
    kept, gone = (metric(train, test, made)["segmentation"] for made in (translated(test), erased(test)))
    assert kept.value > 0.7 > 0.2 > gone.value
    assert kept.details["real"] == gone.details["real"] and kept.details["real"]["value"] > 0.7
    assert kept.details["found"]["value"] > 0.7 > 0.2 > gone.details["found"]["value"]
    assert kept.ci95[0] <= kept.value <= kept.ci95[1] and kept.n == 18
    invented = ImageGroup(test.images.roll(8, -1) + 1.0 * test.masks.flip(-1), test.patients, None, test.masks)
    assert metric(train, test, invented)["segmentation"].value < 0.5 * kept.value
    for part in ("segmentation/dice-per-patient", "trained-on:real=24", "tested-on:made=18", "patients=6", "steps=16"):
        assert part in kept.definition


def test_real_images_in_the_fakes_place_reach_the_ceiling():
    train, test = patients(24, 0, "p"), patients(12, 1, "q")
    score = Segmentation(2.0, 2, **QUICK)(train, test, test)["segmentation"]
    assert score.value == score.details["real"]["value"] and score.ci95 == score.details["real"]["ci95"]


def test_no_segmenter_learns_from_patients_it_is_asked_about(learned):
    train, test = patients(18, 0, "p"), patients(9, 1, "q")
    train.patients[:3] = ["q1"] * 3  # a tested patient among the training images
    train.images[5] = test.images[0]  # a copy under another name
    made, metric = translated(test), Segmentation(2.0, 2, **QUICK | {"steps": 1})
    metric(train, test, made)
    real = owners(train)
    assert len(learned) == 1 and len(learned[0]) == 14 and set(learned[0]) <= set(real)
    assert {real[image] for image in learned[0]} == {"p1", "p2", "p3", "p4", "p5"}
    # real training images as if they had been made
    halved = halves(train)[1]
    metric(train, test, halved)
    assert {real[image] for image in learned[1]}.isdisjoint({*halved.patients, *test.patients})


def test_without_held_out_images_half_of_the_patients_is_asked_about(learned):
    train = patients(18, 0, "p")
    made = translated(patients(9, 1, "q"))
    score = Segmentation(2.0, 2, **QUICK | {"steps": 1})(train, train, made)["segmentation"]
    assert "trained-on:real=9" in score.definition and len(learned[0]) == 9


def test_all_rivals_are_judged_by_one_segmenter_and_each_domain_by_its_own(learned):
    train, test = patients(12, 0, "p"), patients(6, 1, "q")
    metric = Segmentation(2.0, 2, **QUICK | {"steps": 1})
    rivals = (translated(test), erased(test), test)
    first = [metric(train, test, made)["segmentation"].value for made in rivals]
    assert len(learned) == 1
    other = patients(12, 5, "p")
    metric(other, test, rivals[0])
    assert len(learned) == 2 and set(learned[1]) <= set(owners(other))
    assert [metric(train, test, made)["segmentation"].value for made in rivals] == first


def test_the_way_round_good_images_teach_and_bad_ones_do_not(learned):
    train, test = patients(24, 0, "p"), patients(24, 1, "q")
    metric = Segmentation(2.0, 2, **QUICK, teach=True)
    made = translated(test)
    good = metric(train, test, made)
    assert set(good) == {"segmentation", "segmentation_taught"}
    taught = good["segmentation_taught"]
    assert taught.value > 0.6 and taught.n == 24
    for part in ("trained-on:made=24", "crossed-over-halves", "tested-on:real=24", "patients=8"):
        assert part in taught.definition
    of = owners(made)
    halved = [{of[image] for image in images} for images in learned[1:]]
    assert halved[0].isdisjoint(halved[1]) and halved[0] | halved[1] == set(test.patients)
    assert metric(train, test, erased(test))["segmentation_taught"].value < 0.4
    alone = patients(3, 1, "q")
    assert metric(train, alone, translated(alone))["segmentation_taught"].value is None


def test_images_that_nobody_looked_at_are_left_out():
    train, test = patients(12, 0, "p"), patients(9, 1, "q")
    train.masks[:3], test.masks[3:6] = torch.nan, torch.nan
    score = Segmentation(2.0, 2, **QUICK | {"steps": 1})(train, test, translated(test))["segmentation"]
    assert "trained-on:real=9" in score.definition and "patients=2" in score.definition and score.n == 6


def test_without_masks_it_says_what_is_missing():
    train, test, made = patients(6, 0, "p"), patients(6, 1, "q"), translated(patients(6, 1, "q"))
    metric = Segmentation(2.0, 2, **QUICK | {"steps": 1})
    bare = ImageGroup(test.images, test.patients)
    healthy = ImageGroup(test.images, test.patients, None, torch.zeros_like(test.masks))
    for groups, word in (
        ((bare, test, made), "training images"),
        ((train, healthy, made), "test images"),
        ((train, test, bare), "made images"),
        ((ImageGroup(train.images, test.patients, None, train.masks), test, made), "training images"),  # no others
    ):
        with pytest.raises(UserError, match=f"lesion masks.*{word}") as error:
            metric(*groups)
        assert error.value.where == "evaluate.metrics"


def test_options_out_of_range_are_refused():
    for options, word in (({"steps": 0}, "steps = 0"), ({"side": 4}, "side = 4")):
        with pytest.raises(UserError, match=word):
            Segmentation(2.0, 2, **options)
    assert "/96px/" in Segmentation(2.0, 2).definition and "/48px/" in Segmentation(2.0, 3).definition


# ---- the segmenter


def test_a_segmenter_is_the_same_for_a_seed_and_leaves_the_global_generator_alone():
    data, state = patients(12, 0, "p"), torch.get_rng_state()
    made = []
    for seed in (0, 0, 1):
        segmenter = Segmenter(2, 3, 16, seed, 2.0).fit(data.images, data.masks)
        made.append(segmenter.network(segmenter._seen(data.images)))
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(7)
        state = torch.get_rng_state()
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_precision_and_grad_mode_around_it_do_not_matter():
    data = patients(12, 0, "p")
    plain = Segmenter(2, 3, 16, 0, 2.0).fit(data.images, data.masks)(data.images)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Segmenter(2, 3, 16, 0, 2.0).fit(data.images, data.masks)(data.images), plain)


def test_volumes_and_images_larger_than_what_it_sees_are_answered_at_their_own_size(monkeypatch):
    solid = patients(6, 0, "p", (12, 13, 14))
    segmenter = Segmenter(3, 12, 48, 0, 2.0).fit(solid.images, solid.masks)
    answer = segmenter(solid.images)
    assert answer.shape == solid.masks.shape and answer.dtype == torch.bool
    large = patients(12, 0, "p", (24, 32))
    segmenter = Segmenter(2, 30, 16, 0, 2.0).fit(large.images, large.masks)
    assert segmenter._seen(large.images).shape == (12, 1, 12, 16)
    assert agreement([(segmenter(large.images), large)]).value > 0.4
    whole = segmenter(large.images)
    monkeypatch.setattr(segmentation, "PASS", 2 * 12 * 16)
    assert torch.equal(segmenter(large.images), whole)


def test_half_of_what_it_learns_from_shows_a_lesion():
    data = patients(30, 0, "p")
    data.masks[2:] = 0
    shown = []
    segmenter = Segmenter(2, 20, 16, 0, 2.0)
    shrunk = segmenter._shrunk
    segmenter._shrunk = lambda images: (shown.append(images), shrunk(images))[1]
    segmenter.fit(data.images, data.masks)
    counts = [batch.flatten(1).any(1).float().mean() for batch in shown if set(batch.unique().tolist()) <= {0.0, 1.0}]
    assert len(counts) == 20 and 0.35 < float(torch.stack(counts).mean()) < 0.65


def test_images_and_masks_are_mirrored_together(monkeypatch):
    seen, forward, loss = [], segmentation.SmallUNet.forward, segmentation.dice_loss

    def watched_forward(self, x):
        seen.append([x])
        return forward(self, x)

    def watched_loss(answers, masks):
        seen[-1].append(masks)
        return loss(answers, masks)

    monkeypatch.setattr(segmentation.SmallUNet, "forward", watched_forward)
    monkeypatch.setattr(segmentation, "dice_loss", watched_loss)
    data = patients(12, 0, "p")
    Segmenter(2, 4, 16, 0, 2.0).fit(data.images, data.masks)
    assert len(seen) == 4
    for images, masks in seen:
        assert images[masks > 0].min() > images[masks == 0].max()


# ---- in a run


class Keeps(Method):
    """Gives the image back."""

    def translate(self, image, to):
        return image


class Samples(Method):
    """Images from noise."""

    reads = ("image",)

    def sample(self, n, seed, labels=None):
        return torch.zeros((n, 1, *self.geometry.size))


def scorer_of(tables: dict, method: type) -> Scorer:
    model = load_recipe(tables).check()
    data = Data.load(model.data, method)
    size = model.data.patch or model.data.size
    return Scorer(model, data, method(Geometry(model.data.dims, size, data.channels, data.classes, data.range)), CPU)


@pytest.fixture
def lesions(tiny_recipe) -> dict:
    tiny_recipe["data"]["source"] |= {"subjects": 10, "slices": 3, "lesions": 4}
    tiny_recipe["evaluate"] = {"samples": 1, "metrics": [{"name": "segmentation"} | QUICK | {"steps": 2}]}
    return tiny_recipe


def test_a_run_scores_it_for_the_model_and_its_rivals(lesions):
    result = scorer_of(lesions, Keeps).test()
    for to in ("a_to_b", "b_to_a"):
        row = result["metrics"][to]["segmentation"]
        assert row["value"] is not None and row["higher_is_better"] and "real" in row["details"]
        for name in ("identity", "histogram"):
            rival = result["baselines"][name][to]["segmentation"]
            assert rival["details"]["real"] == row["details"]["real"]
        assert result["baselines"]["identity"][to]["segmentation"]["value"] == row["value"]


def test_a_run_without_masks_is_refused_before_training(lesions):
    lesions["data"]["source"]["lesions"] = 0
    with pytest.raises(UserError, match="masks.*0 of .* training images and 0 of .* test images") as error:
        scorer_of(lesions, Keeps)
    assert error.value.where == "evaluate.metrics"
    lesions["data"]["source"]["lesions"] = 2
    lesions["data"]["domains"] = ["T1"]
    with pytest.raises(UserError, match="image from noise has no mask"):
        scorer_of(lesions, Samples)


# ---- masks of real images


def reals_of(tables: dict) -> RealImages:
    model = load_recipe(tables).check()
    data = Data.load(model.data, Keeps)
    return RealImages(data, data.image, "cpu")


def test_sets_carry_masks_where_a_metric_needs_them_alone(lesions):
    reals = reals_of(lesions)
    assert reals.sets("b", (32, 32))[0].masks is None
    reals = reals_of(lesions)
    reals.masks = True
    train, test, _ = reals.sets("b", (32, 32))
    records = reals.records("train", "b")
    assert train.masks.shape == (len(train), 1, 32, 32) and set(train.masks.unique().tolist()) == {0.0, 1.0}
    expected = torch.stack([torch.from_numpy(record.mask()) for record in records])
    assert torch.equal(train.masks, expected) and train.patients == [record.subject for record in records]
    assert set(train.patients).isdisjoint(test.patients)


def test_masks_are_cut_with_their_images(lesions):
    from dataclasses import replace

    lesions["data"]["patch"] = [16, 16]
    reals = reals_of(lesions)
    whole = {record.key: reals.data.image(record) for record in reals.records("train", "a")}
    drawn = {key: (image > image.median()).float()[:1] for key, image in whole.items()}
    for split, members in reals.data.splits.items():
        reals.data.splits[split] = [
            replace(r, mask=lambda r=r: drawn.get(r.key, torch.zeros(1, 32, 32)).numpy()) for r in members
        ]
    reals.masks = True
    train = reals.sets("a", (16, 16))[0]
    medians = torch.stack([whole[record.key].median() for record in reals.records("train", "a")])
    assert train.images.shape == train.masks.shape == (len(whole), 1, 16, 16)
    inside = (train.images + reals.data.range[0]) > medians.view(-1, 1, 1, 1)
    assert torch.equal(train.masks > 0, inside)


def test_a_mask_counts_for_the_image_that_is_registered_with_its_own(lesions):
    from dataclasses import replace

    reals = reals_of(lesions)
    known = {record.pair: record for record in reals.records("train", "a")}
    for split, members in reals.data.splits.items():
        reals.data.splits[split] = [replace(r, mask=None) if r.domain == "b" else r for r in members]
    b = reals.records("train", "b")
    expected = torch.stack([torch.from_numpy(known[record.pair].mask()) for record in b])
    assert torch.equal(reals.masks_of(b), expected)
    lonely = replace(b[0], pair=None)
    with_gap = reals.masks_of([lonely, *b])
    assert with_gap[0].isnan().all() and torch.equal(with_gap[1:], expected)
    assert reals.masks_of([lonely]) is None
