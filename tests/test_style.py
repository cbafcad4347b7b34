"""Style transfer: what the network sees, what is asked of an image, and how an image is brought there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawings import SHALLOW, blobs, no_network, refusal, stripes  # noqa: F401

from gantk.losses.reconstruction import gram
from gantk_style.encoder import DEVIATION, LAYERS, MEAN, VGG19
from gantk_style.lbfgs import ImageLBFGS
from gantk_style.objective import How, Objective, total_variation
from gantk_style.transfer import luminance, smooth_edges, transfer


@pytest.fixture(scope="module")
def encoder():
    return How(**SHALLOW, weights="random").encoder((-1.0, 1.0))


def styled(content, style, encoder, steps: int = 100, shared: bool = True, **options):
    """`transfer` with options by name, at shallow layers."""
    return transfer(content, style, encoder=encoder, how=How(**SHALLOW | options), steps=steps, shared=shared)


def test_vgg19_has_the_published_parameters_and_refuses_what_it_cannot_see():
    # Simonyan and Zisserman 2015, table 1, E; 20,024,384 is what Keras lists for VGG19 without its classifier
    with torch.device("meta"):
        whole, deep = VGG19([LAYERS[-1]]), VGG19(["conv5_1"])
    assert sum(parameter.numel() for parameter in whole.parameters()) == 20_024_384
    assert refusal(VGG19, ["conv2_3"], "random") == (
        "VGG19 has no layer 'conv2_3'. Allowed: conv1_1 to conv5_4. Did you mean 'conv5_3'?"
    )
    assert refusal(deep.check_size, (12, 40)).startswith("an image of 12 x 40 leaves nothing of the map conv5_1 of VGG")


def test_maps_are_those_of_convolutions_relus_and_average_pools():
    encoder, image = VGG19(["conv2_1", "conv1_1"], "random"), blobs(2, 3)
    one, two, three = encoder.blocks.values()
    seen = ((image + 1) / 2 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    first = F.relu(F.conv2d(seen, one.weight, one.bias, padding=1))
    second = F.relu(F.conv2d(first, two.weight, two.bias, padding=1))
    third = F.relu(F.conv2d(F.avg_pool2d(second, 2), three.weight, three.bias, padding=1))
    for found, expected in zip(encoder(image), (third, first), strict=True):
        torch.testing.assert_close(found, expected)


def test_gray_ranges_and_volumes_are_seen_as_colour_pictures_are(encoder):
    gray, volume = blobs(1), blobs(2, size=(3, 16, 16))
    wide, narrow = (VGG19(["conv1_1"], "random", range=(low, 1.0)) for low in (-1.0, 0.0))
    torch.testing.assert_close(wide(gray)[0], narrow((gray + 1) / 2)[0])
    for one, three in zip(encoder(gray), encoder(gray.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(one, three)
    for maps, slices in zip(encoder(volume), encoder(volume.transpose(1, 2).reshape(6, 1, 16, 16)), strict=True):
        torch.testing.assert_close(maps.transpose(1, 2).flatten(0, 1), slices)


def test_content_and_style_are_gatys_formulas_up_to_their_scale(encoder):
    content, style, image = blobs(1), stripes(), blobs(1, seed=5)
    how = How(**SHALLOW, content_weight=2.0, style_weight=3.0, variation=0.5)
    found = Objective(content, style, encoder, how)(image)
    maps = lambda x: {k: v[0].double().flatten(1).numpy() for k, v in zip(encoder.layers, encoder(x), strict=True)}  # noqa: E731
    known, painted, now = maps(content), maps(style), maps(image)
    # equation 1, whose 1/2 and sum are replaced by the energy of the content's maps
    kept = ((now["conv1_2"] - known["conv1_2"]) ** 2).sum() / (known["conv1_2"] ** 2).sum()
    styles = []
    for layer in SHALLOW["style_layers"]:
        (channels, places), grams = now[layer].shape, [m[layer] @ m[layer].T for m in (now, painted)]
        energy = ((grams[1] / places) ** 2).mean()  # what replaces 1/4 in equation 4
        styles.append(((grams[0] - grams[1]) ** 2).sum() / (channels**2 * places**2) / energy)
    assert float(found["content"]) == pytest.approx(2.0 * kept, rel=1e-4)
    assert float(found["style"]) == pytest.approx(3.0 * np.mean(styles), rel=1e-4)
    steps = [np.abs(np.diff(image[0, 0].double().numpy(), axis=axis)).mean() for axis in (0, 1)]
    assert float(found["variation"]) == pytest.approx(0.5 * sum(steps) / 2, rel=1e-5)


def test_several_images_give_one_style_together(encoder):
    styles, image = blobs(3, seed=2), blobs(1)
    found = Objective(image, styles, encoder, How(**SHALLOW, content_weight=0.0, style_weight=1.0))(image)["style"]
    order = [encoder.layers.index(layer) for layer in SHALLOW["style_layers"]]
    mean, maps = [gram(each).mean(0, keepdim=True) for each in encoder(styles)], encoder(image)
    plain = [(gram(maps[k]) - mean[k]).square().mean() / mean[k].square().mean() for k in order]
    torch.testing.assert_close(found[0], torch.stack(plain).mean(), rtol=1e-4, atol=1e-7)


def test_lbfgs_finds_the_bottom_of_each_badly_scaled_bowl_as_if_it_were_alone():
    def bowl(image, centre, scale=1.0):
        weights = torch.logspace(0, 3, image[0].numel()).view(image.shape[1:])
        return scale * (weights * (image - centre).square()).flatten(1).sum(1)

    def minimised(start, centre, steps=60, scale=1.0):
        image = torch.nn.Parameter(start.clone())
        rule = ImageLBFGS([image])

        def closure():
            image.grad = None
            loss = bowl(image, centre, scale).sum()
            loss.backward()
            return loss

        for _ in range(steps):
            rule.step(closure)
        return image.detach()

    start, centre = blobs(3, size=(8, 8)), blobs(3, size=(8, 8), seed=1)
    found = minimised(start, centre)
    assert float((bowl(found, centre) / bowl(start, centre)).max()) < 1e-4
    alone = torch.cat([minimised(a, b) for a, b in zip(start.split(1), centre.split(1), strict=True)])
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)
    near, far = (minimised(start, centre, steps=10, scale=scale) for scale in (1.0, 1024.0))
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_images_of_a_batch_do_not_influence_each_other(encoder, optimizer):
    content, options = blobs(3), {"encoder": encoder, "steps": 6, "optimizer": optimizer, "smooth": 0.7}
    whole, history = styled(content, stripes(), **options)
    for k in range(3):
        single, fall = styled(content[k : k + 1], stripes(), **options)
        torch.testing.assert_close(whole[k : k + 1], single, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(history[:, k : k + 1], fall, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("init", "least"), [("content", 10.0), ("noise", 10.0), ("style", 1.001)])
def test_the_objective_falls_from_every_start(encoder, init, least):  # the style itself lacks the content alone
    _, history = styled(blobs(1, seed=3), stripes(), encoder=encoder, steps=40, init=init, content_weight=0.02)
    assert history.shape == (41, 1) and float(history[0] / history.amin()) > least


def test_the_same_seed_gives_the_same_image_and_leaves_the_generator_alone(encoder):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    options = {"encoder": encoder, "steps": 3, "init": "noise"}
    first, again, other = (styled(blobs(1), stripes(), seed=seed, **options)[0] for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("option", "low", "high", "measure"),
    [
        ("content_weight", 0.01, 10.0, lambda image, content: (image - content).square().mean()),
        ("variation", 0.0, 100.0, lambda image, content: total_variation(image)),
    ],
    ids=["content-is-kept", "smoother"],
)
def test_a_weight_lowers_what_it_weighs(encoder, option, low, high, measure):
    content = blobs(1)
    images = [styled(content, stripes(), encoder=encoder, steps=15, **{option: weight})[0] for weight in (low, high)]
    free, asked = (float(measure(image, content)) for image in images)
    assert asked < 0.8 * free


def test_a_result_is_no_worse_than_the_start_within_its_range_and_of_the_colours_asked_for(encoder):
    content = torch.cat([blobs(1), 1.5 * blobs(1)])
    image, history = styled(content, stripes(), encoder, optimizer="adam", lr=5.0, steps=3)
    assert (history[1:] > history[0]).all(), "the steps were meant to be far too long"
    assert torch.equal(image, content)
    image, _ = styled(content, 3 * stripes(), encoder, steps=5)
    assert image[0].abs().max() <= 1
    assert image[1].min() >= content[1].min() and image[1].max() <= content[1].max()
    content = 0.5 * blobs(1, 3)
    image, _ = styled(content, stripes(), encoder, steps=5, color="content")
    torch.testing.assert_close(image - luminance(image), content - luminance(content), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(luminance(image), luminance(content), atol=0.01)
    image, _ = styled(content, stripes(), encoder, steps=2, color="gray")
    assert image.shape == (1, 3, 32, 32) and torch.equal(image, image[:, :1].expand_as(image))


def test_smoothing_softens_edges_and_leaves_flat_tissue():
    image = torch.zeros(1, 1, 32, 32)
    image[..., 16:] = 1.0
    image[..., 2:4, 2:4] = 0.01  # texture
    softer = smooth_edges(image, 1.0)
    assert float((softer[..., 15:17] - image[..., 15:17]).abs().min()) > 0.1
    torch.testing.assert_close(softer[..., :8], image[..., :8], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ((1, 3), {}, 'the content is gray and the style is RGB. Set color = "content"'),
        ((2, 1), {}, "VGG19 sees gray or RGB images, and the content has 2 channels. Allowed: 1, 3.  (content)"),
        ((1, 1), {"shared": False}, "3 styles for 2 contents. Allowed: one for each.  (style)"),
        ((1, 1), {"style_weight": -1.0}, "style_weight = -1 is below 0. Allowed: 0 or more.  (style_weight)"),
        ((1, 1), {"content_weight": 0.0, "style_weight": 0.0}, "are all 0: nothing is asked"),
        ((1, 1), {"smooth": -1.0}, "smooth = -1 is no width. Allowed: 0 or more, in pixels.  (smooth)"),
    ],
    ids=["colours", "channels", "styles", "negative", "nothing", "smooth"],
)
def test_refusals_are_one_clear_message(encoder, images, options, message):
    content, style = (blobs(count, channels) for count, channels in zip((2, 3), images, strict=True))
    assert message in refusal(styled, content, style, encoder=encoder, **options)
