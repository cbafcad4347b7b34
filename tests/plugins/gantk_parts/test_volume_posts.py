"""Post-steps: volumes stay apart; the coil is the input's; the bright end is stretched."""

import pytest
import torch
from tiny import PATCHGAN, UNET, registered

import gantk
from gantk.errors import UserError
from gantk.runs.trained import Examples

InputBiasField = registered("post", "bias_field")
BrightEnd = registered("post", "bright_end")


def head(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An input and the truth, dark where it is bright, (D, 1, 32, 32): rods that lean, in air."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    steps = torch.arange(12)[:, None, None] / 2 + seed
    rods = torch.sin((rows + steps) / 3).sign() * torch.sin((columns - steps) / 4).sign()
    air = (rows - 16) ** 2 + (columns - 16) ** 2 > 144
    given = torch.where(air, -1.0, 0.4 * rods)[:, None]
    return given, torch.where(air, -1.0, -0.3 * rods)[:, None]


def examples_of(given: torch.Tensor | list) -> Examples:
    """As a run gives them."""
    return Examples(lambda: None, "b", "cpu", given)


def test_images_from_noise_have_no_bias_field():
    post = InputBiasField(2, (-1.0, 1.0))
    with pytest.raises(UserError, match="images from noise have none"):
        post(head(0)[1], examples_of([]))


def test_whole_volumes_are_post_processed_and_scored(tiny_recipe, tmp_path):
    method = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
    recipe = tiny_recipe | {"method": method, "post": ["bias_field"]}
    run = gantk.run(recipe, out=tmp_path / "run", device="cpu", say=str)

    assert "a_to_b_post" in (run.path / "metrics.json").read_text("utf-8")

    volume = 1000 * (1 + head(0)[0][:, 0]).numpy()
    found = []
    for batch in (3, 16):
        model = gantk.load(run.path, device="cpu")
        model.recipe.translate.batch = batch
        found.append(torch.from_numpy(model.translate(volume)))

    torch.testing.assert_close(*found, atol=1e-2, rtol=1e-4)


def test_bias_field_of_the_input_is_applied_to_outputs():
    line = torch.linspace(-1, 1, 32)
    coil = torch.exp(0.12 * line[:, None] - 0.2 * line)
    plain_input, plain_output = head(0)
    given = (plain_input + 1) * coil - 1
    truth = (plain_output + 1) * coil - 1
    air = given * 0 - 1
    post = InputBiasField(2, (-1.0, 1.0))
    post_of_volumes = InputBiasField(3, (-1.0, 1.0))
    examples = examples_of(given)
    examples_of_volumes = examples_of(given.transpose(0, 1)[None])
    left_out = plain_output
    turned_round = (plain_output + 1) / coil - 1
    for made in (left_out, turned_round):
        done = post(made, examples)
        error_before = (made - truth).abs().mean()
        error = (done - truth).abs().mean()
        whole = post_of_volumes(made.transpose(0, 1)[None], examples_of_volumes)
        assert error < 0.1 * error_before
        torch.testing.assert_close(whole[0].transpose(0, 1), done)

    assert (post(truth, examples) - truth).abs().max() < 0.01
    assert torch.equal(post(air, examples), air)


def blurred_head() -> tuple[torch.Tensor, torch.Tensor]:
    """A volume (D, 1, H, W) without air whose 97th percentile is the end of the range, and the same
    with a bright end that is half as long.
    """
    order = torch.randperm(20_000, generator=torch.Generator().manual_seed(0))
    true = torch.linspace(-0.8, 1.0, 20_000)[order].reshape(5, 1, 50, 80)
    true = true / true.quantile(0.97)
    knee = true.quantile(0.9)
    return true, torch.where(true > knee, knee + 0.5 * (true - knee), true)


def test_the_bright_end_is_stretched_and_the_rest_stays():
    true, short = blurred_head()
    post = BrightEnd(2, (-1.0, 1.0))
    done = post(short, examples_of(torch.zeros_like(short)))

    assert done.quantile(0.97).item() == pytest.approx(1.0, abs=0.01)
    dark = short < short.quantile(0.9)
    assert torch.equal(done[dark], short[dark])
    assert (done - true).abs().mean() < 0.1 * (short - true).abs().mean()
    assert torch.equal(done.flatten().argsort(), short.flatten().argsort())  # no two change places
