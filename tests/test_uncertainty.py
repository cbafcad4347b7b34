"""Uncertainty maps that are what they say, and scores of them whose values are known by hand."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.inference.uncertainty import KINDS, Uncertain, dropping, uncertain
from gantk.metrics.uncertainty import foreground, judge

# ---- how well an uncertainty predicts the error


def rising(patients: int = 2) -> np.ndarray:
    """Errors 1 to 100, in an order of its own for every patient: (patients, 1, 10, 10)."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(np.arange(1.0, 101)).reshape(1, 10, 10) for _ in range(patients)])


def judged(errors, uncertainties, **options):
    inside = options.pop("foreground", np.ones_like(errors[:, :1]))
    patients = options.pop("patients", [f"p{n}" for n in range(len(errors))])
    return judge(errors, uncertainties, inside, patients, **options)


def test_a_perfect_uncertainty_gets_perfect_scores():
    errors = rising()
    found = judged(errors, 3 * errors + 7)
    assert found["auroc"]["value"] == 1 and found["ause"]["value"] == 0
    assert found["spearman"]["value"] == pytest.approx(1)
    curve = found["rejection"]
    assert curve["error"] == curve["oracle"]
    assert (curve["kept"][0], curve["error"][0], curve["kept"][10], curve["error"][10]) == (1.0, 50.5, 0.5, 25.5)
    assert (curve["kept"][-1], curve["error"][-1]) == (0.05, 3.0)


def test_an_inverted_uncertainty_gets_the_worst_scores():
    errors = rising()
    found = judged(errors, -errors)
    assert found["auroc"]["value"] == 0 and found["spearman"]["value"] == pytest.approx(-1)
    assert found["rejection"]["error"][10] == 75.5 and found["rejection"]["random"][10] == 50.5
    # of errors 1 to 100 both curves are straight lines, 100 x rejected apart and mirrored at the flat one of 50.5
    assert found["ause"]["value"] == pytest.approx(100 * 0.475 / 50.5)
    assert found["ause"]["random"] == pytest.approx(found["ause"]["value"] / 2)


def test_one_uncertainty_for_all_is_guessing_and_so_is_a_random_one():
    errors = rising()
    found = judged(errors, np.ones_like(errors))
    assert found["auroc"]["value"] == 0.5 and found["ause"]["value"] == pytest.approx(found["ause"]["random"])
    assert found["spearman"]["value"] is None
    assert found["rejection"]["error"] == pytest.approx(found["rejection"]["random"]) == [50.5] * 20
    many = np.random.default_rng(1).random((2, 1, 200, 200))
    found = judged(many, np.random.default_rng(2).random(many.shape))
    assert found["auroc"]["value"] == pytest.approx(0.5, abs=0.02)
    assert found["ause"]["value"] == pytest.approx(found["ause"]["random"], abs=0.02)


def test_ties_count_half_and_the_threshold_is_the_one_named():
    errors = np.array([0.0, 0.0, 0.0, 1.0]).reshape(1, 1, 2, 2)
    for uncertainties, auroc in (([1, 2, 3, 2], 1.5 / 3), ([1, 2, 3, 3], 2.5 / 3), ([1, 2, 3, 4], 1.0)):
        found = judged(errors, np.array(uncertainties, float).reshape(errors.shape), threshold=0.5)
        assert found["auroc"]["value"] == pytest.approx(auroc)
    assert "error-above-0.5" in found["auroc"]["definition"]


def test_scores_agree_with_counting_all_pairs_and_with_scipy():
    rng = np.random.default_rng(3)
    errors, uncertainties = rng.random((1, 1, 12, 12)), rng.integers(0, 9, (1, 1, 12, 12)).astype(float)
    found = judged(errors, uncertainties)
    large = errors > np.quantile(errors, 0.9)
    gaps = uncertainties[large][:, None] - uncertainties[~large][None]
    assert found["auroc"]["value"] == pytest.approx(((gaps > 0) + 0.5 * (gaps == 0)).mean())
    assert found["spearman"]["value"] == pytest.approx(spearmanr(errors.ravel(), uncertainties.ravel())[0])


def test_only_the_foreground_and_what_is_known_counts():
    errors = rising(1)
    wrong, inside = -errors, np.ones_like(errors)
    inside[..., :5, :] = 0
    uncertainties = np.where(inside > 0, errors, wrong)
    assert judged(errors, uncertainties, foreground=inside)["auroc"]["value"] == 1
    errors[0, 0, 9, 9] = np.nan
    assert judged(errors, uncertainties, foreground=inside)["spearman"]["value"] == pytest.approx(1)


def test_patients_are_what_is_averaged_and_drawn():
    errors = np.concatenate([rising(2), rising(1)])
    uncertainties = np.concatenate([errors[:2], -errors[2:]])
    found = judged(errors, uncertainties, patients=["p", "p", "q"])
    assert found["auroc"]["value"] == 0.5 and found["auroc"]["n"] == 2
    assert found["auroc"]["ci95"] == [0.0, 1.0]
    unknown = judged(errors, uncertainties, patients=["", "", ""])
    assert unknown["auroc"]["value"] == pytest.approx(2 / 3) and unknown["auroc"]["n"] == 3
    assert judged(errors[:1], errors[:1])["auroc"]["ci95"] is None


def test_nothing_to_judge_has_no_value_and_everything_is_json():
    errors = rising()
    for found in (
        judged(0 * errors, errors),
        judged(errors, errors, foreground=np.zeros_like(errors)),
        judged(errors, errors),
        judged(torch.from_numpy(errors), torch.from_numpy(errors), foreground=torch.ones(2, 1, 10, 10).bool()),
    ):
        assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert judged(0 * errors, errors)["ause"]["value"] is None
    assert judged(errors, errors, foreground=np.zeros_like(errors))["auroc"]["n"] == 0


def test_one_uncertainty_serves_several_channels():
    errors = np.concatenate([rising(1), 2 * rising(1)], axis=1)
    assert (
        judged(errors, rising(1))["spearman"]["value"]
        == judged(errors, np.repeat(rising(1), 2, 1))["spearman"]["value"]
    )


def test_the_foreground_is_where_any_image_shows_more_than_air():
    source, truth = torch.full((1, 2, 2, 2), -1.0), torch.full((1, 1, 2, 2), -0.95)
    source[0, 1, 0, 0], truth[0, 0, 1, 1] = 0.0, -0.85
    assert foreground(source, truth, low=-1.0, data_range=2.0).tolist() == [[[[True, False], [False, True]]]]


# ---- the maps


class Toy(nn.Module):
    """A two-way method of one weight a direction, with a dropout layer where asked."""

    def __init__(self, p: float = 0.0, kind: type[nn.Module] = nn.Dropout):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.drop = kind(p) if p else nn.Identity()
        self.both = True
        self.eval()

    def translate(self, image: Tensor, to: str) -> Tensor:
        return self.drop(image * self.scale if to == "b" else image / 3)

    def directions(self) -> list[str]:
        return ["b", "a"] if self.both else ["b"]


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def maps(kind: str, toy: Toy, image: Tensor, **options):
    back = options.pop("back", lambda made: toy.translate(made, "a"))
    others = options.pop("others", ())
    return Uncertain(kind, **options).maps(lambda x: toy.translate(x, "b"), image, module=toy, back=back, others=others)


def slanted(image: Tensor) -> Tensor:
    """A network that goes wrong to the right: 0, 1, 2, ... along the columns."""
    return image + torch.arange(image.shape[-1], dtype=torch.float32)


def test_flips_find_what_depends_on_the_side():
    image = images(2, 1, 4, 5)
    plain, spread = Uncertain("flips", flips=["columns"]).maps(slanted, image, module=Toy())
    gaps = torch.tensor([4.0, 2, 0, 2, 4])  # of 0..4 and 4..0
    assert torch.equal(plain, slanted(image))
    assert torch.allclose(spread, (gaps / 2**0.5).expand_as(spread), atol=1e-5)
    _, spread = Uncertain("flips", flips=["rows"]).maps(slanted, image, module=Toy())
    assert torch.allclose(spread, torch.zeros(()), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 6, 4), (2, 3, 6, 4), (1, 2, 5, 6, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_plain_translation_and_an_uncertainty_of_its_shape(kind, shape):
    toy, image = Toy(0.5), images(*shape)
    others = [{"scale": torch.tensor(3.0)}]
    plain, spread = maps(kind, toy, image, others=others)
    assert torch.equal(plain, toy.translate(image, "b")) and spread.shape == plain.shape
    assert spread.min() >= 0 and torch.isfinite(spread).all() and spread.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_does_not_depend_on_the_batch_nor_touches_the_random_generator(kind):
    toy, image, others = Toy(0.5), images(5, 1, 6, 6), [{"scale": torch.tensor(3.0)}]
    before = torch.get_rng_state()
    whole = maps(kind, toy, image, others=others)[1]
    assert torch.equal(before, torch.get_rng_state())
    assert not toy.training and not toy.drop.training and not toy.drop._forward_hooks
    parts = torch.cat([maps(kind, toy, part, others=others)[1] for part in image.split(2)])
    assert torch.equal(whole, parts)


def test_dropout_is_the_spread_of_seeded_networks():
    toy, image = Toy(0.5), images(1, 1, 8, 8) + 0.5
    first, again = (maps("dropout", toy, image, seed=3)[1] for _ in range(2))
    other = maps("dropout", toy, image, seed=4)[1]
    assert torch.equal(first, again) and not torch.equal(first, other)
    many = maps("dropout", toy, image, passes=400)[1]  # a unit is 0 or doubled: its deviation is its own size
    assert torch.allclose(many / (2 * image), torch.ones(()), atol=0.02)


def test_channel_dropout_drops_whole_channels():
    toy, image = Toy(0.5, nn.Dropout2d), torch.ones(2, 16, 3, 3)
    with dropping(toy, torch.Generator().manual_seed(0)):
        found = toy.translate(image, "b")
    assert set(found.unique().tolist()) == {0.0, 4.0}
    assert torch.equal(found, found[:1, :, :1, :1].expand_as(found))


def test_checkpoints_are_weights_and_leave_the_method_as_it_was():
    toy, image = Toy(), images(2, 1, 4, 4)
    weights = [{"scale": torch.tensor(1.0)}, {"scale": torch.tensor(3.0)}]
    spread = maps("checkpoints", toy, image, others=weights)[1]
    assert toy.scale.item() == 2.0
    assert torch.allclose(spread, image, atol=1e-6)  # the deviation of x, 2x, 3x is x


def test_weights_come_back_after_a_failure():
    toy = Toy()
    with pytest.raises(RuntimeError):
        maps("checkpoints", toy, images(1, 1, 4, 4), others=[{"elsewhere": torch.ones(())}])
    assert toy.scale.item() == 2.0


def test_the_cycle_error_is_the_distance_from_the_way_there_and_back():
    toy, image = Toy(), images(2, 1, 4, 4)
    assert torch.allclose(maps("cycle", toy, image)[1], image / 3, atol=1e-6)  # 2 x / 3 against x
    _, spread = maps("cycle", toy, images(2, 3, 4, 4), back=lambda made: made[:, :3] * 0)
    assert spread.shape == (2, 3, 4, 4)
    plain, spread = Uncertain("cycle").maps(
        lambda x: x[:, :1], images(2, 2, 4, 4), module=toy, back=lambda made: made.expand(-1, 2, -1, -1)
    )
    assert plain.shape == spread.shape == (2, 1, 4, 4)


def test_auto_adds_the_cycle_to_the_flips_where_there_is_a_way_back():
    image, module = images(2, 1, 4, 5), Toy()
    flips = Uncertain("flips").maps(slanted, image, module=module)[1]
    cycle = Uncertain("cycle").maps(slanted, image, module=module, back=torch.zeros_like)[1]
    assert torch.equal(Uncertain().maps(slanted, image, module=module)[1], flips)
    assert torch.equal(Uncertain().maps(slanted, image, module=module, back=torch.zeros_like)[1], flips + cycle)
    assert [Uncertain().chosen(back=back) for back in (True, False)] == ["flips+cycle", "flips"]


def test_half_precision_gives_finite_float_maps():
    layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(0.3), nn.Conv2d(4, 1, 3, padding=1)).eval()
    for kind in ("flips", "dropout", "cycle"):
        with torch.autocast("cpu", torch.bfloat16):
            plain, spread = Uncertain(kind).maps(layers, images(2, 1, 8, 8), module=layers, back=layers)
        assert plain.dtype == spread.dtype == torch.float32
        assert torch.isfinite(spread).all() and spread.max() > 0


def test_a_method_gives_translation_and_uncertainty_side_by_side():
    toy, image = Toy(), images(2, 1, 4, 4)
    for to, both, expected in (("b", True, image / 3), ("b", False, 0 * image), ("a", True, image / 3)):
        toy.both = both
        made, spread = uncertain(toy, to, Uncertain("auto"))(image).chunk(2, dim=1)
        assert torch.equal(made, toy.translate(image, to)) and torch.allclose(spread, expected, atol=1e-6)


@pytest.mark.parametrize(
    "kind, options, words",
    [
        ("dropout", {}, "no dropout.*flips, checkpoints or cycle"),
        ("checkpoints", {}, "single checkpoint.*train.keep"),
        ("cycle", {"back": None}, "no way back.*flips or checkpoints"),
        ("flips", {"flips": ["planes"]}, "no planes"),
    ],
)
def test_a_kind_that_cannot_be_had_names_those_that_can(kind, options, words):
    with pytest.raises(UserError) as caught:
        maps(kind, Toy(), images(1, 1, 4, 4), **options)
    assert re.search(words, str(caught.value))


def test_what_cannot_be_had_is_known_before_a_training():
    toy = Toy()
    toy.both = False
    for kind, words in (("dropout", "no dropout"), ("cycle", "no way back"), ("checkpoints", "single checkpoint")):
        with pytest.raises(UserError, match=words):
            Uncertain(kind).check(toy, checkpoints=1)
    for kind in ("auto", "flips"):
        Uncertain(kind).check(toy, checkpoints=1)
    for kind in KINDS:
        Uncertain(kind).check(Toy(0.5), checkpoints=2)


def test_wrong_options_are_named():
    for options, words in (
        ({"kind": "flip"}, "Did you mean 'flips'"),
        ({"passes": 1}, "2 or more"),
        ({"flips": ["left"]}, "columns, rows, planes"),
        ({"flips": []}, "columns"),
    ):
        with pytest.raises(UserError, match=words):
            Uncertain(**options)
