"""R4's style transfer by its effect: VGG19 with averages, rescaled filters, Gram matrices, who is
content and who is style, Gaussian smoothing.
"""

from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from systems import recipe_of
from torch import nn

from gantk_style import encoder, transfer
from gantk_style.encoder import LAYERS, VGG19
from gantk_style.gram import gram
from gantk_style.objective import Objective

pytestmark = pytest.mark.fidelity

# VGG19 (Simonyan and Zisserman 2015, table 1, column E): filters of its convolutions, a pooling
# behind every block
BLOCKS = [[64] * 2, [128] * 2, [256] * 4, [512] * 4, [512] * 4]
STYLED = ["dcgan_tumour_style", "pix2pix_tumour_style", "progan_tumour_style"]
STYLE_LAYERS = ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"]  # Gatys et al. 2016
CONTENT_LAYER = "conv4_2"


def vgg_in_plain_torch(image, kernels):
    """Maps of the layers with kernels, each behind its ReLU, of a gray or RGB image in [0, 1]."""
    x = image.expand(-1, 3, -1, -1)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = (x - mean) / deviation
    maps = []
    for number, block in enumerate(BLOCKS):
        if number and len(maps) < len(kernels):
            rows = x.unflatten(2, (-1, 2)).mean(3)
            x = rows.unflatten(3, (-1, 2)).mean(4)  # averages of 2 x 2
        for _ in block[: len(kernels) - len(maps)]:
            weight, bias = kernels[len(maps)]
            x = F.conv2d(x, weight, bias, padding=1).clamp(min=0)
            maps.append(x)
    return maps


def small_vgg(layers=LAYERS, share=16, **options):
    """VGG19 as gantk builds it, with a fraction of its filters and drawn weights."""
    with torch.device("meta"):
        network = VGG19(layers, **options)
    torch.manual_seed(0)
    inputs = 3
    for name, layer in network.blocks.items():
        outputs = layer.out_channels // share
        network.blocks[name] = nn.Conv2d(
            inputs, outputs, layer.kernel_size, layer.stride, layer.padding
        )
        inputs = outputs
    network.mean = torch.tensor(encoder.MEAN).view(1, 3, 1, 1)
    network.deviation = torch.tensor(encoder.DEVIATION).view(1, 3, 1, 1)
    return network.requires_grad_(False)


def kernels_of(network):
    return [(layer.weight, layer.bias) for layer in network.blocks.values()]


def post_of(name):
    """The style transfer of a published recipe; its VGG19 has no memory."""
    with torch.device("meta"):
        return recipe_of(name).post[0](2, (-1.0, 1.0))


def test_the_network_is_vgg19_as_pretrained_on_imagenet():
    asked = []
    build = encoder.timm_model

    def watched(name, weights, **options):
        asked.append((name, weights))
        return build(name, weights, **options)

    with mock.patch.object(encoder, "timm_model", watched), torch.device("meta"):
        network = VGG19(LAYERS)

    shapes = [tuple(layer.weight.shape) for layer in network.blocks.values()]
    filters = sum(BLOCKS, [])
    assert asked == [("vgg19.tv_in1k", "pretrained")]
    assert shapes == [
        (out, inputs, 3, 3) for inputs, out in zip([3, *filters], filters, strict=False)
    ]
    kinds = {type(layer).__name__ for layer in network.modules()} - {"VGG19", "ModuleDict"}
    assert kinds == {"Conv2d", "AvgPool2d"}  # no dense layers


@pytest.mark.parametrize(("channels", "low"), [(1, -1.0), (3, -1.0), (1, 0.0)])
def test_vgg19_averages_and_gives_what_is_behind_its_relus(channels, low):
    network = small_vgg(range=(low, 1.0))
    image = torch.rand(2, channels, 32, 32)

    found = network(image * (1 - low) + low)

    for mine, theirs in zip(found, vgg_in_plain_torch(image, kernels_of(network)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_a_gram_matrix_is_the_mean_product_of_two_filters():
    maps = torch.tensor([[[[1.0, 2.0]], [[3.0, 5.0]]]])  # two filters at two positions

    assert gram(maps).tolist() == [[[2.5, 6.5], [6.5, 17.0]]]


def rescaled(maps, of_content, of_style):
    """Maps whose filters have mean activation 1 over the positions of both images."""
    mean = (of_content.mean((2, 3), keepdim=True) + of_style.mean((2, 3), keepdim=True)) / 2
    return maps / mean


def share(found, wanted):
    return ((found - wanted) ** 2).mean() / (wanted**2).mean()


@pytest.mark.parametrize("name", STYLED)
def test_content_and_style_losses_are_those_of_gatys(name):
    how = post_of(name).how
    network = small_vgg(list(dict.fromkeys([*how.content_layers, *how.style_layers])), share=8)
    for layer in network.blocks.values():  # every filter is active somewhere
        layer.weight.abs_()
        layer.bias.fill_(0.3)
    content, style, image = (2 * torch.rand(1, 1, 32, 32) - 1 for _ in range(3))
    of_content, of_style, of_image = (
        dict(zip(LAYERS, vgg_in_plain_torch((x + 1) / 2, kernels_of(network)), strict=False))
        for x in (content, style, image)
    )

    found = Objective(content, style, network, how, shared=False)(image)

    def scaled(maps, layer):
        return rescaled(maps[layer], of_content[layer], of_style[layer])

    of_layers = [
        share(gram(scaled(of_image, layer)), gram(scaled(of_style, layer)))
        for layer in STYLE_LAYERS
    ]
    stated = {
        "content": share(scaled(of_image, CONTENT_LAYER), scaled(of_content, CONTENT_LAYER)),
        "style": 100 * torch.stack(of_layers).mean(),  # the weight is ours
    }
    assert found.keys() == stated.keys()
    for key, loss in stated.items():
        assert float(found[key]) == pytest.approx(float(loss), rel=1e-3)


@pytest.mark.parametrize("name", STYLED)
def test_the_real_image_is_content_the_generated_one_style(name):
    post = post_of(name)
    made = torch.full((3, 1, 32, 32), -0.5)
    real = torch.full((3, 1, 32, 32), 0.5)
    shown = []

    def paint(content, style, *, steps, shared, **more):
        shown.append((float(content.mean()), float(style.mean()), shared, steps))
        return content

    with mock.patch("gantk_style.post.transfer", paint):
        post(made, SimpleNamespace(real=lambda n: real[:n]))

    assert shown == [(0.5, -0.5, False, 100)]


def test_every_real_image_meets_a_synthesized_one_of_its_own():
    post = post_of("dcgan_tumour_style")
    post.how = replace(post.how, batch=2)
    made = torch.linspace(-0.9, -0.1, 5).view(5, 1, 1, 1).expand(-1, 1, 32, 32)
    real = torch.linspace(0.1, 0.9, 5).view(5, 1, 1, 1).expand(-1, 1, 32, 32)
    pairs = []

    def paint(content, style, **more):
        pairs.extend(zip(content[:, 0, 0, 0].tolist(), style[:, 0, 0, 0].tolist(), strict=True))
        return content

    with mock.patch("gantk_style.post.transfer", paint):
        found = post(made, SimpleNamespace(real=lambda n: real[:n]))

    contents, styles = zip(*pairs, strict=True)
    assert list(contents) == real[:, 0, 0, 0].tolist()
    assert list(styles) == made[:, 0, 0, 0].tolist()
    assert torch.equal(found, real)


def test_each_image_of_a_batch_has_its_own_style():
    how = post_of("dcgan_tumour_style").how
    how = replace(how, content_layers=("conv1_2",), style_layers=("conv1_1", "conv2_1"))
    network = small_vgg(["conv1_2", "conv1_1", "conv2_1"])
    torch.manual_seed(3)
    content, style, image = (2 * torch.rand(3, 1, 16, 16) - 1 for _ in range(3))

    together = Objective(content, style, network, how, shared=False)(image)

    for number in range(3):
        own = slice(number, number + 1)
        alone = Objective(content[own], style[own], network, how, shared=False)(image[own])
        for key, loss in alone.items():
            torch.testing.assert_close(together[key][own], loss, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", STYLED)
def test_the_best_image_on_the_way_from_the_content_is_returned(name):
    how = replace(post_of(name).how, smooth=0.0, content_layers=("conv1_2",))
    how = replace(how, style_layers=("conv1_1", "conv2_1"))
    network = small_vgg(["conv1_2", "conv1_1", "conv2_1"])
    torch.manual_seed(1)
    content, style = (2 * torch.rand(2, 1, 16, 16) - 1 for _ in range(2))
    objective = Objective(content, style, network, how, shared=False)

    def total(image):
        return sum(objective(image).values())

    seen = []
    found = transfer.transfer(
        content,
        style,
        encoder=network,
        how=how,
        steps=8,
        shared=False,
        watch=lambda step, losses: seen.append(sum(losses.values())),
    )
    history = torch.stack(seen)

    torch.testing.assert_close(history[0], total(content))
    torch.testing.assert_close(total(found), history.amin(0))
    assert history.amin(0).sum() < 0.8 * history[0].sum()
    assert found.abs().max() <= 1


def test_pix2pix_images_are_smoothed_at_their_edges_only():
    image = torch.full((1, 1, 32, 32), -0.5)
    image[..., 16:] = 0.5  # an edge between two columns
    how = post_of("pix2pix_tumour_style").how
    others = [post_of(name).how.smooth for name in STYLED if name != "pix2pix_tumour_style"]

    found = transfer.smooth_edges(image, how.smooth)[0, 0].numpy()

    soft = gaussian_filter(image[0, 0].numpy(), sigma=1.0, mode="nearest", truncate=8.0)
    assert found[:, 15:17] == pytest.approx(soft[:, 15:17], abs=1e-5)
    assert (found[:, :15] == -0.5).all()
    assert (found[:, 17:] == 0.5).all()
    assert how.smooth == 1.0  # pixels; ours
    assert others == [0.0, 0.0]


def test_the_result_of_a_transfer_is_what_is_smoothed():
    how = post_of("pix2pix_tumour_style").how
    how = replace(how, content_layers=("conv1_1",), style_layers=("conv1_1",))
    network = small_vgg(["conv1_1"])
    torch.manual_seed(1)
    content, style = (2 * torch.rand(1, 1, 16, 16) - 1 for _ in range(2))

    def result(rule):
        return transfer.transfer(content, style, encoder=network, how=rule, steps=2)

    unsmoothed = result(replace(how, smooth=0.0))

    torch.testing.assert_close(result(how), transfer.smooth_edges(unsmoothed, 1.0))
    assert not torch.equal(result(how), unsmoothed)
