"""Translations between domains: what pairs, cycles and regressions minimise, how lesions weigh; one
network for all.
"""

from itertools import combinations

import pytest
import torch
from tiny import PATCHGAN, UNET, method_of, random_images, read_json, small_run
from torch import Tensor, nn
from volumes import load, volume

from gantk.errors import UserError
from gantk.formats.files import read
from gantk.losses.reconstruction import L1, L2, Cycle, Identity, lesion_weight
from gantk.method import Batch, Method
from gantk.metrics.table import read_lines
from gantk_translation.any_to_any.scoring import cases


def build(name: str = "pix2pix", **options) -> Method:
    """A small method on images of 16 pixels a side."""
    table = {"name": name, "generator": UNET} | (
        {} if name == "regression" else {"discriminator": PATCHGAN}
    )
    table |= {"pool": 0} if name in ("cyclegan", "dualgan") else {}
    return method_of(table | options)


def pairs() -> Batch:
    """Random pairs, always the same, with lesions in one corner."""
    images = {name: random_images(2, 1, (16, 16), seed=1) for name in "ab"}
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, :6, :6] = 1.0
    return Batch(images | {"mask_a": mask, "mask_b": mask.flip(2)})


def double(x: Tensor) -> Tensor:
    return x.detach().double()


# ---- pairs: Isola et al. (2017) ------------------------------------------------------------------


def test_dropout_is_the_noise_if_the_recipe_wants_it():
    """In use it draws from torch's global generator: a seed there makes it repeatable."""
    image = pairs()["a"]
    dropout = UNET | {"dropout": 0.5}
    noisy = build(generator=dropout, test_dropout=True).eval()
    torch.manual_seed(3)
    first = noisy.translate(image, "b")
    other = noisy.translate(image, "b")
    torch.manual_seed(3)

    assert torch.equal(noisy.translate(image, "b"), first)
    assert not torch.equal(other, first)
    still = build(generator=dropout).eval()
    assert torch.equal(still.translate(image, "b"), still.translate(image, "b"))
    assert not any(
        module.training for module in noisy.modules() if not isinstance(module, nn.Dropout)
    )


@pytest.mark.parametrize(("source", "to"), [("a", "b"), ("b", "a")])
def test_a_discriminator_of_pairs_sees_the_source_too(source, to):
    method = build(both=True)
    batch = Batch(a=random_images(2, 1, (16, 16)), b=random_images(2, 1, (16, 16), seed=1))
    shown = []
    judge = getattr(method, f"d_{source}{to}")
    judge.register_forward_pre_hook(lambda _, given: shown.extend(given[0].split(2)))
    method.generator_losses(batch)
    method.discriminator_losses(batch)
    beside = [batch[f"fake_{to}"], batch[to], batch[f"fake_{to}"]]

    for image, expected in zip(shown, beside, strict=True):
        assert torch.equal(image, torch.cat([batch[source], expected], 1))


@pytest.mark.parametrize("name", ["cyclegan", "dualgan"])
def test_discriminators_see_fakes_of_earlier_steps(name):
    """As many as the pool holds, half of the time each (Shrivastava et al. 2017)."""
    method = build(name, pool=4)
    shown = []
    method.d_b.register_forward_pre_hook(lambda _, images: shown.append(images[0].detach().clone()))
    first = pairs() | {
        "fake_a": random_images(2, 1, (16, 16)),
        "fake_b": torch.full((2, 1, 16, 16), 0.5),
    }
    torch.manual_seed(0)
    method.discriminator_losses(Batch(first))
    shown.clear()
    for seed in range(8):
        fakes = {f"fake_{side}": random_images(2, 1, (16, 16), seed=seed + 9) for side in "ab"}
        method.discriminator_losses(Batch(pairs() | fakes))

    again = sum(bool((image == 0.5).all()) for images in shown for image in images)
    assert again > 0


@pytest.mark.parametrize("name", ["cyclegan", "dualgan"])
@pytest.mark.parametrize("defense", [0.0, 0.3])
def test_what_is_translated_back_has_the_noise_of_the_defense(name, defense):
    """Networks that change nothing give the noise alone as the loss of the cycle."""
    method = build(name, defense=defense, cycle=1.0)
    for network in (method.g_ab, method.g_ba):
        network.register_forward_hook(lambda _, images, __: images[0])
    torch.manual_seed(0)

    losses = method.generator_losses(pairs())

    mean = defense * (2 / torch.pi) ** 0.5  # of the absolute values of normal noise
    for way in ("cycle_a", "cycle_b"):
        assert losses[way].item() == pytest.approx(mean, rel=0.1)


# ---- weights of lesions --------------------------------------------------------------------------


WEIGHED = {
    "l1": (L1(), torch.abs),
    "l2": (L2(), torch.square),
    "cycle": (Cycle(), torch.abs),
    "identity": (Identity(norm="l2"), torch.square),
}


@pytest.mark.parametrize("size", [(4, 5), (3, 4, 2)])
@pytest.mark.parametrize(("loss", "formula"), WEIGHED.values(), ids=WEIGHED)
def test_a_weight_says_how_often_a_pixel_counts(loss, formula, size):
    output = random_images(2, 3, size, seed=0)
    target = random_images(2, 3, size, seed=1)
    weight = (random_images(2, 1, size, seed=2) + 1) / 2
    # each image by itself: sum of w x loss over sum of w
    wide = weight.double().expand_as(output).flatten(2)
    differences = formula(output.double() - target.double()).flatten(2)
    of_images = (wide * differences).sum(2) / wide.sum(2)
    expected = pytest.approx(float(of_images.mean()), rel=1e-5)

    assert loss(output, target, weight).item() == expected
    assert loss(output, target, 7.0 * weight).item() == expected


@pytest.mark.parametrize(("name", "factor"), [("pix2pix", 100), ("regression", 1)])
@pytest.mark.parametrize(("source", "to"), [("a", "b"), ("b", "a")])
def test_lesions_of_pairs_count_as_often_as_said(name, factor, source, to):
    """L1 with the weights 1 + (lesion - 1) mask, divided by their mean."""
    method = build(name, lesion=4.0, both=True)
    batch = pairs()
    losses = method.generator_losses(batch)
    weight = 1 + 3 * double(batch[f"mask_{to}"])
    difference = double(method.translate(batch[source], to)) - double(batch[to])
    weighted = weight / weight.mean() * difference.abs()
    expected = factor * float(weighted.mean())

    assert float(losses[f"l1_{to}"].detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "kinds"), [("cyclegan", ("cycle", "identity")), ("dualgan", ("cycle",))]
)
def test_lesions_weigh_in_cycle_and_identity_losses_only(name, kinds):
    plain, weighed = (
        build(name, lesion=weight, local_ncc=1.0).generator_losses(pairs()) for weight in (1.0, 8.0)
    )
    changed = {key for key in plain if not torch.equal(plain[key], weighed[key])}

    assert changed == {f"{kind}_{of}" for kind in kinds for of in "ab"}


# ---- one network from any contrasts to any other


NAMES = ("T1", "T2", "FLAIR", "PD")
METHOD = {"name": "anytoany", "generator": UNET, "discriminator": PATCHGAN}


def built(planes=1, **options):
    contrasts = dict.fromkeys("ab", NAMES)
    return method_of(METHOD | options, channels=[4 * planes] * 2, contrasts=contrasts)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(
        tmp_path_factory.mktemp("any"),
        METHOD,
        steps=2,
        scored=True,
        domains=["+".join(NAMES)] * 2,
        missing="mask",
    )


def test_a_target_is_never_shown_and_every_number_of_others_is():
    method = built()
    images = random_images(2000, 4, (4, 4))
    images[:, 3] = -1.0  # nobody has a PD
    target, kept = method.draw(Batch(a=images, b=images))

    assert set(target.tolist()) == {0, 1, 2}
    assert not kept[:, 3].any()
    assert not kept[torch.arange(2000), target].any()
    shares = kept.sum(1).bincount() / 2000
    assert shares.tolist() == pytest.approx([0, 0.5, 0.5], abs=0.05)


@pytest.mark.parametrize("planes", [1, 3])
def test_a_contrast_is_made_from_the_others_alone(planes):
    method = built(planes=planes).eval()
    images = random_images(2, 4 * planes, (16, 16))
    with_other_flair = images.clone()  # neighbouring slices and all
    with_other_flair[:, 2::4] = random_images(2, planes, (16, 16), seed=9)
    with torch.no_grad():
        before = method.translate(images, "b")
        after = method.translate(with_other_flair, "b")

    assert torch.equal(before[:, 2::4], after[:, 2::4])
    for contrast in (0, 1, 3):
        assert not torch.equal(before[:, contrast::4], after[:, contrast::4])


def test_contrasts_are_scored_in_every_case_of_what_is_there(run):
    found = read_json(run / "metrics.json")
    keys = set()
    for target in NAMES:
        others = [name for name in NAMES if name != target]
        keys |= {f"{name}_to_{target}" for name in others}
        keys |= {f"{'+'.join(two)}_to_{target}" for two in combinations(others, 2)}
        keys.add(f"others_to_{target}")

    assert len(keys) == 28
    assert found["metrics"].keys() == keys | {"a_to_b"}
    assert found["cases"].keys() == keys
    assert found["cases"]["T1+T2_to_PD"] == {"given": ["T1", "T2"], "made": "PD"}
    for kind in ("metrics", "verdict"):
        assert found["baselines"]["identity"].keys() == found[kind].keys() - {"a_to_b"}
    table = read_lines(run)
    unfair = table[(table.system == "identity") & (table.direction == "a_to_b")]
    assert unfair.empty, "it sees the truth among its contrasts"
    unchanged = found["baselines"]["identity"]
    for one, other in combinations(NAMES, 2):  # each sees the other alone
        errors = (unchanged[f"{x}_to_{y}"]["mae"]["value"] for x, y in ((one, other), (other, one)))
        assert next(errors) == pytest.approx(next(errors), rel=1e-4)

    of_foreground = {found["metrics"][key]["psnr_foreground"]["definition"] for key in keys}
    assert of_foreground == {found["metrics"]["a_to_b"]["psnr_foreground"]["definition"]}
    sources = ("T1", "T2", "T1+T2", "others")
    assert len({found["metrics"][f"{name}_to_PD"]["psnr"]["value"] for name in sources}) == 4


def test_of_many_contrasts_only_some_cases_are_scored():
    names = tuple("ABCDEF")
    found = list(cases(names, names))

    assert len(found) == 6 * (5 + 1)
    assert all(len(given) in (1, 5) and target not in given for given, target in found)


class Fixed(nn.Module):
    """A network with one output, whatever it sees."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, image: Tensor) -> Tensor:
        return self.output


def test_an_error_in_a_lesion_counts_more():
    torch.manual_seed(0)
    image = random_images(2, 4, (16, 16))
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., :4] = 1.0
    losses = {}
    for lesion in (1.0, 9.0):
        method = built(lesion=lesion)
        method.generator = Fixed(image + mask)
        torch.manual_seed(1)
        losses[lesion] = method.generator_losses(Batch(a=image, b=image, mask_b=mask))["l1"]

    # of what is hidden, however much that is
    assert float(losses[1.0]) == pytest.approx(100 / 4, rel=1e-4)
    # a quarter of the pixels is wrong: 1/4, and 9/4 of a mean weight of 3
    assert float(losses[9.0] / losses[1.0]) == pytest.approx(3.0, rel=1e-4)
    with pytest.raises(UserError, match="no lesion masks"):
        built(lesion=9.0).generator_losses(Batch(a=image, b=image))


def test_one_contrast_of_several_is_made_of_what_a_patient_has(run, tmp_path, gantk):
    for patient, names in {"p1": NAMES, "p2": ("T1", "PD"), "p3": ("FLAIR",)}.items():
        for number, name in enumerate(names):
            volume(tmp_path / "in" / patient / f"{name}.nii.gz", number, (32, 32, 4))

    out = tmp_path / "out"
    done = gantk("translate", run, tmp_path / "in", out, "--to", "flair")

    assert done.code == 1
    assert "1 of 3 patients" in done.err
    assert "the only contrast given is FLAIR" in done.err
    made = {path.relative_to(out).as_posix() for path in out.rglob("*.nii.gz")}
    assert made == {"p1/FLAIR.nii.gz", "p2/FLAIR.nii.gz"}
    assert read(out / "p2" / "FLAIR.nii.gz").pixels.shape == (1, 4, 32, 32)


@pytest.fixture
def incomplete_study(tmp_path):
    """The [data] options of six patients, and those of them who lack a contrast."""
    lacking = {(1, "T2"), (2, "FLAIR"), (3, "T1")}
    for number in range(6):
        for place, name in enumerate(("T1", "T2", "FLAIR")):
            if (number, name) not in lacking:
                volume(tmp_path / f"patient{number}" / f"{name}.nii.gz", 10 * number + place)

    options = {
        "source": {"name": "contrasts", "path": str(tmp_path)},
        "domains": ["T1+T2+FLAIR"] * 2,
        "split": {"test": 0.5, "validation": 0.0},
    }
    return options, {f"patient{number}" for number, _ in lacking}


def test_incomplete_patients_are_trained_on_but_not_scored(incomplete_study):
    options, incomplete = incomplete_study
    data = load(method=type(built()), missing="mask", **options)

    assert {record.subject for record in data.training} & incomplete

    tested = {record.subject for record in data.splits["test"]}
    scored = {pair["b"].subject for pair in data.pairs("test")}

    assert scored == tested - incomplete
    assert scored < tested


def test_incomplete_patients_are_refused_unless_asked_for(incomplete_study):
    options, _ = incomplete_study
    with pytest.raises(UserError, match=r"lack a contrast.*data\.missing"):
        load(method=type(built()), **options)


@pytest.mark.parametrize("name", ["pix2pix", "regression"])
def test_one_mask_serves_both_images_of_a_pair(name):
    method = build(name, lesion=4.0, both=True)
    batch = pairs()
    losses = method.generator_losses(batch)
    mask = batch.pop("mask_b")
    batch["mask_a"] = mask

    assert torch.equal(method.generator_losses(batch)["l1_b"], losses["l1_b"])


def test_a_lesion_weighs_what_the_recipe_says():
    mask = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 3)
    assert lesion_weight(mask, 5.0).flatten().tolist() == [1.0, 3.0, 5.0]
    assert lesion_weight(mask, 1.0) is None
    assert lesion_weight(None, 1.0) is None

    unmasked = Batch({name: pairs()[name] for name in "ab"})
    with pytest.raises(UserError, match=r"no lesion masks.*data\.mask = true.*method\.lesion"):
        build("cyclegan", lesion=4.0).generator_losses(unmasked)
