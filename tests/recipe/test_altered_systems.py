"""A run that lacks what makes a published system that system is not called it, and no published figure
stands beside it.
"""

import pytest
import tomli_w

from gantk.recipe.load import load_recipe, resolved
from gantk.recipe.published import changes_of_file, departures, published_system
from gantk.training.begin import _other_scores
from gantk_bench.plan import Options, jobs_for
from gantk_bench.suite import Suite

DUALGAN, CYCLEGAN = "dualgan_t1t2_unet15", "cyclegan_t1t2_unet15"
ALTERED = [  # a published system, a setting from outside, and the key that is named
    (DUALGAN, "method.cycle=0.0", "method.cycle"),
    (DUALGAN, "method.identity=5.0", "method.identity"),
    (DUALGAN, "method.local_ncc=2.0", "method.local_ncc"),
    (DUALGAN, "method.generator.dropout=0.5", "method.generator.dropout"),
    (DUALGAN, "train.optimizer.weight_decay=0.01", "train.optimizer.weight_decay"),
    (DUALGAN, "train.optimizer.lr=0.001", "train.optimizer.lr"),
    (DUALGAN, "data.intensity.range=[0.0, 1.0]", "data.intensity.range"),
    (CYCLEGAN, "method.identity=0.0", "method.identity"),
    (CYCLEGAN, "data.augment=[]", "data.augment"),
    (CYCLEGAN, "method.generator.width=16", "method.generator.width"),
    (CYCLEGAN, 'post=["bias_field"]', "post"),
    ("cyclegan_t1t2_64", "method.cycle=0.0", "method.cycle"),
    ("cyclegan_t1t2_64", "method.identity=0.0", "method.identity"),
    ("cyclegan_t1t2_64", "train.optimizer.betas=[0.9, 0.999]", "train.optimizer.betas"),
    ("cyclegan_t1t2_64", "train.optimizer.weight_decay=0.0", "train.optimizer.weight_decay"),
    ("cyclegan_t1t2_64", "data.augment=[]", "data.augment"),
    ("cyclegan_t1t2_256", "method.identity=0.0", "method.identity"),
    ("cyclegan_ct_mr", "method.cycle=0.0", "method.cycle"),
    ("cyclegan_ct_mr", "method.identity=5.0", "method.identity"),
    ("cyclegan_ct_mr_resnet9", "train.optimizer.betas=[0.9, 0.999]", "train.optimizer.betas"),
    ("dcgan_tumour", "data.intensity.range=[0.0, 1.0]", "data.intensity.range"),
    ("dcgan_tumour", 'method.noise="normal"', "method.noise"),
    ("pix2pix_tumour", "method.l1=0.0", "method.l1"),
    ("pix2pix_tumour", "method.noise=0", "method.noise"),
    ("pix2pix_tumour", "method.generator.depth=3", "method.generator.depth"),
    ("pix2pix_tumour", "train.optimizers.generators.weight_decay=0.1", "train.optimizers"),
    ("pix2pix_tumour_style", "post=[]", "post"),
    ("progan_tumour", "data.intensity.range=[0.0, 1.0]", "data.intensity.range"),
    ("style_gan_tumour", "method.style=0.0", "method.style"),
]
KEPT = [  # what the report leaves open, and what makes no other system
    (DUALGAN, ["method.cycle=5.0", "train.optimizer.betas=[0.9, 0.999]"]),
    (DUALGAN, ["train.epochs=12", "train.batch=2", "data.fit=pad", "train.precision=fp32"]),
    (CYCLEGAN, ["method.identity=1.0", "data.split.test=0.3", "train.seed=3"]),
    ("cyclegan_t1t2_64", ["train.optimizer.betas=[0.5, 0.99]", 'data.augment=["vflip"]']),
    ("pix2pix_tumour", ["method.l1=10.0", "method.noise=3", "data.intensity.high=99.0"]),
]


STATED = [  # what a report states, what a recipe has, and what it is then said to have; None: the same
    ("unet", {"name": "unet", "width": 4}, None),
    ("unet", {"name": "resnet"}, {"name": "resnet"}),
    (
        [{"name": "affine", "p": 0.5}],
        [{"name": "affine", "p": 0.8}],
        [{"name": "affine", "p": 0.8}],
    ),
    ([{"name": "affine"}], [{"name": "affine", "p": 0.8}], None),
    (["hflip", "open"], ["hflip", {"name": "affine", "p": 0.8}], None),
    (["hflip", "open"], ["hflip"], ["hflip"]),
    (["hflip"], ["vflip"], ["vflip"]),
    ("on", 5.0, None),
    ("on", 0.0, 0.0),
    ("on", [], []),
    (0.0, 5.0, 5.0),
]


@pytest.mark.parametrize(("stated", "here", "said"), STATED)
def test_a_value_agrees_with_what_is_stated_of_it(stated, here, said):
    found = departures({"method": {"key": stated}}, {"method": {"key": here}})
    assert found == ({} if said is None else {"method.key": (stated, said)})


def system_of(name, settings):
    recipe = load_recipe(name).override(settings)
    tables = resolved(recipe.check())
    return published_system(tables, changes_of_file(recipe, tables))


@pytest.mark.parametrize(("name", "setting", "key"), ALTERED)
def test_an_altered_system_is_refused_its_published_figure(name, setting, key):
    system = system_of(name, [setting])

    assert any(f"{each}.".startswith(f"{key}.") for each in system.other_system)
    assert "are kept" not in system.in_short()
    assert "not the published system" in system.in_short()


@pytest.mark.parametrize(("name", "settings"), KEPT)
def test_what_the_report_leaves_open_makes_no_other_system(name, settings):
    system = system_of(name, settings)

    assert system.other_system == ()
    plain = system_of(name, [])
    assert (system.figures, system.undefined) == (plain.figures, plain.undefined)


def test_the_bench_shows_figures_beside_their_system_alone():
    (whole,) = jobs_for([DUALGAN], Suite(), Options(), named=True)
    (altered,) = jobs_for([DUALGAN], Suite(set={"method": {"cycle": 0.0}}), Options(), named=True)

    assert whole.facts["published"] == {"b_to_a": {"psnr": 10.91, "ssim": 0.18}}
    assert altered.facts["published"] == {}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({}, ""),
        ({"size": [64, 64]}, "differ: data.size."),
        ({"intensity": {"name": "percentile", "high": 99.0}}, "differ: data.intensity.high."),
        ({"split": {"fold": 1}}, ""),  # folds count together
        ({"source": {"path": "/other"}, "size": [64, 64]}, ""),
    ],
)
def test_a_training_says_whose_scores_will_not_compare(tmp_path, changed, named):
    data = {
        "source": {"path": "/scans"},
        "size": [96, 96],
        "intensity": {"name": "percentile", "high": 99.9},
        "split": {"fold": 0},
    }
    for name, text in (("first", "[data]\nsize = [8, 8]\n"), ("broken", "[data")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.toml").write_text(text)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "recipe.toml").write_text(tomli_w.dumps({"data": data}))
    said = _other_scores(tmp_path / "third", {"data": data | changed})

    assert (named in said) if named else not said
    assert (str(tmp_path / "second") in said) is bool(named)
