"""The registry from Python, and the names that errors suggest."""

import pytest
from tiny import python

import gantk
from gantk import registry
from gantk.errors import UserError
from gantk.plugin.registry import KINDS
from gantk.plugin.spec import bind


def test_the_registry_lists_kinds_names_owners_and_targets():
    parts = gantk.registry()

    assert list(parts) == list(KINDS)
    assert {"bce", "ls", "l1", "l2", "gram"} <= set(parts["loss"])
    unet = parts.get("generator", "unet")
    assert (unet.kind, unet.name, unet.owner) == ("generator", "unet", "gantk")
    assert unet.target == "gantk.nets.unet:UNet"
    assert unet.load().__name__ == "UNet"
    assert [entry.name for entry in parts.of_kind("loss")] == parts["loss"]
    lines = str(parts).splitlines()
    assert len(lines) == len(KINDS)
    assert any(line.startswith("generator ") and "unet" in line for line in lines)
    with pytest.raises(UserError, match="no kind of part 'losss'.*Did you mean 'loss'"):
        parts["losss"]


def test_the_registry_needs_no_torch():
    code = (
        "import gantk, sys; parts = gantk.registry(); str(parts); parts['loss'];"
        " parts.get('generator', 'unet').target; print('torch' in sys.modules)"
    )
    assert python("-c", code).ok().out.strip() == "False"


@pytest.mark.parametrize(
    ("kind", "name", "suggestion"),
    [
        ("loss", "lsgan", "'ls'"),
        ("loss", "least_squares", "'ls'"),
        ("loss", "Least-Squares", "'ls'"),
        ("loss", "mse", "'l2' or 'ls'"),
        ("loss", "mae", "'l1'"),
        ("loss", "hinge_gan", "'hinge'"),
        ("loss", "bce_with_logits", "'bce'"),
        ("loss", "wgangp", "'wgan_gp'"),
        ("loss", "nce", "the method 'cut'"),
        ("generator", "resnet_9blocks", "'resnet'"),
        ("generator", "unet_256", "'unet'"),
        ("discriminator", "basic", "'patchgan'"),
        ("discriminator", "n_layers", "'patchgan'"),
        ("discriminator", "pixel", "'patchgan'"),
        ("loss", "hing", "'hinge'"),
    ],
)
def test_names_of_other_toolkits_suggest_ours(kind, name, suggestion):
    with pytest.raises(UserError) as raised:
        registry().get(kind, name)
    assert f"Did you mean {suggestion}?" in str(raised.value)


@pytest.mark.parametrize(
    ("value", "says", "where"),
    [
        ({"name": "cyclegan", "cycle": -1}, "not -1", "method.cycle of 'cyclegan'"),
        (
            {"name": "cyclegan", "cycle_loss": "lsgan"},
            "Allowed: body_l1, cycle",
            "method.cycle_loss",
        ),
        ({"name": "cyclegan", "adversarial": "mse"}, "Did you mean 'ls'?", "method.adversarial"),
        ({"name": "lsgan"}, "no method 'lsgan'", ""),
    ],
)
def test_advice_fits_the_option_that_is_named(value, says, where):
    with pytest.raises(UserError) as raised:
        bind("method", value)
    assert says in str(raised.value)
    assert where in (raised.value.where or "")
    assert "the loss" not in str(raised.value)
