"""Checkpoints of pytorch-CycleGAN-and-pix2pix and CUT, imported: their results, and what is refused.

The networks here are written anew, from the names and shapes of the layers in such files, and their
results are what test.py would write.
"""

import pickle
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import read_json
from torch import Tensor, nn

from gantk import import_checkpoint, load_recipe, run, translate
from gantk.errors import UserError
from gantk.formats.files import read

QUIET = {"say": lambda line: None}
WIDTH = 4
NORMS = ("instance", "batch", "none")


# ---- the networks of those programs


def norm_layer(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels) if kind == "instance" else nn.Identity()


class BlurredHalf(nn.Module):
    """Every second pixel of the image weighted by 1, 2, 1 along both axes."""

    def __init__(self, channels: int):
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", (line[:, None] * line).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), self.filt, stride=2, groups=x.shape[1])


class Doubled(nn.Module):
    """Four pixels in place of each, weighted by 3/4 and 1/4 of the nearest along both axes."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("filt", torch.ones(channels, 1, 4, 4))  # only to be in the file

    def forward(self, x: Tensor) -> Tensor:
        for axis in (2, 3):
            padded = torch.cat([x.narrow(axis, 0, 1), x, x.narrow(axis, -1, 1)], axis)
            size = x.shape[axis]
            before = padded.narrow(axis, 0, size)
            after = padded.narrow(axis, 2, size)
            pair = torch.stack([(before + 3 * x) / 4, (after + 3 * x) / 4], axis + 1)
            x = pair.flatten(axis, axis + 1)
        return x


class Block(nn.Module):
    def __init__(self, c: int, kind: str, bias: bool, dropout: bool):
        super().__init__()
        middle = [nn.Dropout(0.5)] if dropout else []
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(c, c, 3, bias=bias),
            norm_layer(kind, c),
            nn.ReLU(),
            *middle,
            nn.ReflectionPad2d(1),
            nn.Conv2d(c, c, 3, bias=bias),
            norm_layer(kind, c),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Net(nn.Module):
    """The names of a file begin with `model`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def resnet(a: int, b: int, blocks: int, kind: str, dropout=False, blur=False) -> Net:
    bias = kind == "instance"
    w = WIDTH

    def unit(convolution: nn.Module, channels: int) -> list[nn.Module]:
        return [convolution, norm_layer(kind, channels), nn.ReLU()]

    layers = [nn.ReflectionPad2d(3), *unit(nn.Conv2d(a, w, 7, bias=bias), w)]
    for c in (w, 2 * w):
        stride = 1 if blur else 2
        layers += unit(nn.Conv2d(c, 2 * c, 3, stride, 1, bias=bias), 2 * c)
        layers += [BlurredHalf(2 * c)] if blur else []
    layers += [Block(4 * w, kind, bias, dropout) for _ in range(blocks)]
    for c in (4 * w, 2 * w):
        if blur:
            layers += [Doubled(c), *unit(nn.Conv2d(c, c // 2, 3, 1, 1, bias=bias), c // 2)]
        else:
            up = nn.ConvTranspose2d(c, c // 2, 3, 2, 1, output_padding=1, bias=bias)
            layers += unit(up, c // 2)
    return Net(nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(w, b, 7), nn.Tanh()))


class Level(nn.Module):
    """One level of a U-Net around the next one."""

    def __init__(self, layers: list[nn.Module], outermost: bool):
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.outermost = outermost

    def forward(self, x: Tensor) -> Tensor:
        y = self.model(x)
        return y if self.outermost else torch.cat([F.leaky_relu(x, 0.2), y], 1)


def unet(a: int, b: int, depth: int, kind: str, dropout=False) -> Net:
    bias = kind == "instance"
    filters = [WIDTH * min(2**level, 8) for level in range(depth)]
    inner: list[nn.Module] = []
    for level in reversed(range(depth)):
        c = filters[level]
        outer = filters[level - 1] if level else b
        first = a if level == 0 else outer
        down = nn.Conv2d(first, c, 4, 2, 1, bias=bias)
        up_inputs = c if level == depth - 1 else 2 * c
        up = nn.ConvTranspose2d(up_inputs, outer, 4, 2, 1, bias=bias or level == 0)
        if level == 0:
            layers = [down, *inner, nn.ReLU(), up, nn.Tanh()]
        elif level == depth - 1:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, norm_layer(kind, outer)]
        else:
            layers = [nn.LeakyReLU(0.2), down, norm_layer(kind, c), *inner]
            layers += [nn.ReLU(), up, norm_layer(kind, outer)]
            layers += [nn.Dropout(0.5)] if dropout and 1 <= depth - 2 - level < 4 else []
        inner = [Level(layers, level == 0)]
    return Net(inner[0])


NETWORKS = {
    "resnet_9blocks": partial(resnet, blocks=9),
    "resnet_6blocks": partial(resnet, blocks=6),
    "unet_256": partial(unet, depth=8),
    "unet_128": partial(unet, depth=7),
}
SIDES = {"resnet_9blocks": 64, "resnet_6blocks": 64, "unet_256": 256, "unet_128": 128}


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights whose outputs have contrast, and statistics of some images."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def as_test_py(network: nn.Module, pixels: np.ndarray, evaluated: bool) -> np.ndarray:
    """The picture (H, W) or (H, W, 3) that test.py writes for another one, without its dropout."""
    network.train(not evaluated)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    image = torch.tensor(np.atleast_3d(pixels)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        output = network(image)[0].permute(1, 2, 0).numpy()
    return ((output + 1) / 2 * 255).astype(np.uint8).squeeze()


# ---- their folders


def write_folder(folder: Path, options: dict, **networks: nn.Module | dict) -> Path:
    """A folder checkpoints/NAME: train_opt.txt as those programs write it, and the networks."""
    folder.mkdir(parents=True)
    lines = ["----------------- Options ---------------"]
    for name, value in sorted(options.items()):
        lines.append(f"{name:>25}: {value!s:<30}\t[default: None]")
    lines.append("----------------- End -------------------")
    (folder / "train_opt.txt").write_text("\n".join(lines) + "\n")
    for name, network in networks.items():
        state = network if isinstance(network, dict) else network.state_dict()
        torch.save(state, folder / f"latest_net_{name}.pth")
    return folder


def options_of(network: str, norm: str = "instance", channels: int = 1, **more) -> dict:
    options = {"model": "pix2pix", "netG": network, "norm": norm, "ngf": WIDTH, "ndf": WIDTH}
    options |= {"input_nc": channels, "output_nc": channels, "direction": "AtoB"}
    options |= {"no_dropout": True, "crop_size": SIDES.get(network, 64), "dataroot": "./maps"}
    return options | {"preprocess": "resize_and_crop", "n_epochs": 100} | more


def draw_picture(path: Path, side: int, channels: int) -> np.ndarray:
    rng = np.random.default_rng(side + channels)
    shape = (side // 8, side // 8, 3)[: 3 if channels == 3 else 2]
    small = Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8))
    small.resize((side, side), Image.BICUBIC).save(path)
    return np.asarray(Image.open(path))


def translated(model: Path, tmp_path: Path, to: str | None = None) -> np.ndarray:
    made = tmp_path / f"made-{to}.png"
    translate(model, tmp_path / "given.png", made, to=to, device="cpu", **QUIET)
    return np.asarray(Image.open(made))


def largest_difference(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    assert np.ptp(other) > 50  # it has contrast
    return int(np.abs(one.astype(int) - other).max())


CASES = [(network, norm, 1, False) for network in NETWORKS for norm in NORMS]
CASES += [("resnet_6blocks", "batch", 3, True), ("unet_128", "batch", 3, True)]
CASES += [("unet_256", "instance", 3, False)]


@pytest.mark.quick_cases(
    "resnet_9blocks-instance-1-False",
    "resnet_6blocks-batch-3-True",
    "unet_128-batch-1-False",
    "unet_128-none-1-False",
    "unet_256-instance-3-False",
)
@pytest.mark.parametrize(("name", "norm", "channels", "evaluated"), CASES)
def test_imported_generators_equal_test_py(tmp_path, name, norm, channels, evaluated):
    network = drawn(NETWORKS[name](channels, channels, kind=norm, dropout=True))
    options = options_of(name, norm, channels, no_dropout=False)
    folder = write_folder(tmp_path / "maps", options, G=network)
    model = import_checkpoint(folder, tmp_path / "m", set={"eval": evaluated}, **QUIET)
    given = draw_picture(tmp_path / "given.png", SIDES[name], channels)
    expected = as_test_py(network, given, evaluated)

    assert largest_difference(translated(model, tmp_path), expected) <= 1


@pytest.mark.parametrize(
    ("channels", "wrapped"), [(1, ""), (3, "module."), (1, "_orig_mod.module.")]
)
def test_cut_with_its_antialiased_layers(tmp_path, channels, wrapped):
    network = drawn(resnet(channels, channels, 9, "instance", blur=True))
    options = options_of("resnet_9blocks", channels=channels, model="cut")
    options["normG"] = options.pop("norm")
    options |= {"no_antialias": False, "no_antialias_up": False}
    state = {f"{wrapped}{key}": value for key, value in network.state_dict().items()}
    folder = write_folder(tmp_path / "maps", options, G=state)
    model = import_checkpoint(folder, tmp_path / "m", **QUIET)
    given = draw_picture(tmp_path / "given.png", 64, channels)

    expected = as_test_py(network, given, False)
    assert largest_difference(translated(model, tmp_path), expected) <= 1


def cyclegan(folder: Path, **more) -> tuple[Path, list[nn.Module]]:
    """A CycleGAN's folder, and its two generators."""
    networks = [drawn(resnet(1, 1, 6, "instance"), seed) for seed in (0, 1)]
    options = options_of("resnet_6blocks", model="cycle_gan") | more
    return write_folder(folder, options, G_A=networks[0], G_B=networks[1]), networks


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_each_domain_is_made_by_its_generator(tmp_path, direction):
    folder, (g_a, g_b) = cyclegan(tmp_path / "maps", direction=direction)
    model = import_checkpoint(folder, tmp_path / "m", domains=("T1", "T2"), **QUIET)
    given = draw_picture(tmp_path / "given.png", 64, 1)
    # G_A makes the target of the training's direction
    makers = {"T2": g_a, "T1": g_b} if direction == "AtoB" else {"T1": g_a, "T2": g_b}

    for domain, network in makers.items():
        expected = as_test_py(network, given, False)
        assert largest_difference(translated(model, tmp_path, domain), expected) <= 1


@pytest.mark.parametrize("name", ["resnet_6blocks", "unet_128"])
def test_gray_makes_one_channel_of_three_alike(tmp_path, name):
    network = drawn(NETWORKS[name](3, 3, kind="instance"))
    last = [module for module in network.modules() if hasattr(module, "weight")][-1]
    with torch.no_grad():  # a network that saw gray pictures makes them
        axis = 0 if isinstance(last, nn.Conv2d) else 1
        last.weight.copy_(last.weight.mean(axis, keepdim=True).expand_as(last.weight))
        last.bias.fill_(0.1)
    folder = write_folder(tmp_path / "maps", options_of(name, channels=3), G=network)
    lines: list[str] = []
    model = import_checkpoint(folder, tmp_path / "m", gray=True, say=lines.append)
    given = draw_picture(tmp_path / "given.png", SIDES[name], 1)
    expected = as_test_py(network, np.stack([given] * 3, -1), False)

    assert largest_difference(translated(model, tmp_path), expected[..., 0]) <= 1
    assert any("three channels differ by up to" in line for line in lines)


def test_a_volume_is_translated_slice_by_slice(tmp_path):
    network = drawn(resnet(1, 1, 6, "instance"))
    folder = write_folder(tmp_path / "maps", options_of("resnet_6blocks"), G=network)
    model = import_checkpoint(folder, tmp_path / "m", **QUIET)
    picture = draw_picture(tmp_path / "p.png", 64, 1)
    levels = np.stack([picture, picture[::-1], picture.T], -1)
    results = []
    for scale in (1, 4.25, 8.5):  # the levels of pictures, and other units
        scan = nib.Nifti1Image((levels * scale).astype(np.float32), np.eye(4))
        nib.save(scan, tmp_path / "scan.nii.gz")
        out = tmp_path / f"made-{scale}.nii.gz"
        translate(model, tmp_path / "scan.nii.gz", out, device="cpu", **QUIET)
        results.append(read(out).pixels[0])

    nib.save(nib.Nifti1Image(levels.astype(np.float32), np.eye(4)), tmp_path / "scan.nii.gz")
    for given, made in zip(read(tmp_path / "scan.nii.gz").pixels[0], results[0], strict=True):
        assert np.abs(made - as_test_py(network, given.astype(np.uint8), False)).max() < 1.01
    np.testing.assert_allclose(results[1], results[2], atol=0.1)
    assert np.abs(results[0] - results[1]).mean() < 10


MISFITS = [
    ({"ngf": 8}, "'model.1' has weight [4, 1, 7, 7], bias [4], but weight [8, 1, 7, 7] is exp"),
    ({"input_nc": 3}, "'model.1' has weight [4, 1, 7, 7], bias [4], but weight [4, 3, 7, 7] is"),
    (
        {"netG": "resnet_9blocks"},
        "'model.16' has weight [16, 8, 3, 3], bias [8], but weight [16, 1",
    ),
    ({"netG": "unet_256"}, "'model.1' has weight [4, 1, 7, 7], bias [4], but weight [4, 1, 4, 4]"),
    ({"norm": "batch"}, "netG = resnet_6blocks, norm = batch"),
    ({"no_antialias": False}, "it has 0 antialiased layers, but a network of 2 is expected"),
    ({"netG": "stylegan2"}, "'unet_256' or 'unet_128', not \"stylegan2\""),
    ({"model": "colorization"}, "'pix2pix' or 'cut', not \"colorization\""),
    ({"epoch": "7"}, "7_net_G_A.pth' does not exist"),
    ({"ngff": 4}, "no option 'ngff'. Did you mean 'ngf'?"),
    ({"ngf": "many"}, 'a valid integer, unable to parse string as an integer, not "many"'),
]


@pytest.mark.parametrize(("settings", "message"), MISFITS)
def test_what_does_not_fit_is_one_error_and_no_folder(tmp_path, settings, message):
    folder, _ = cyclegan(tmp_path / "maps")
    with pytest.raises(UserError) as error:
        import_checkpoint(folder, tmp_path / "m", set=settings, **QUIET)

    assert message in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps"]


def test_options_that_the_folder_lacks_are_asked_for(tmp_path):
    folder, (network, _) = cyclegan(tmp_path / "maps")
    (folder / "train_opt.txt").unlink()
    with pytest.raises(UserError, match="'model' is required") as error:
        import_checkpoint(folder, tmp_path / "m", **QUIET)
    assert "set model=VALUE" in str(error.value)

    settings = {"model": "cycle_gan", "netG": "resnet_6blocks", "ngf": 4, "crop_size": 64}
    settings |= {"input_nc": 1, "output_nc": 1}
    model = import_checkpoint(folder, tmp_path / "m", set=settings, **QUIET)
    given = draw_picture(tmp_path / "given.png", 64, 1)
    expected = as_test_py(network, given, False)
    assert largest_difference(translated(model, tmp_path), expected) <= 1


def test_no_code_of_a_file_is_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    folder, _ = cyclegan(tmp_path / "maps")
    (folder / "latest_net_G_A.pth").write_bytes(pickle.dumps({"weight": Harmful()}))
    with pytest.raises(UserError, match="cannot be read as weights"):
        import_checkpoint(folder, tmp_path / "m", **QUIET)

    assert not (tmp_path / "ran").exists()


def test_a_kilobyte_of_endless_tensors_is_refused(tmp_path):
    folder, _ = cyclegan(tmp_path / "maps")
    endless = torch.zeros(1).expand(2**20, 2**20)
    torch.save({"0.weight": endless}, folder / "latest_net_G_A.pth")
    with pytest.raises(UserError, match="declares more values than it holds"):
        import_checkpoint(folder, tmp_path / "m", **QUIET)


def test_a_fine_tuning_begins_with_the_defaults_and_says_so(tmp_path):
    folder, _ = cyclegan(tmp_path / "maps", lambda_A=8.0, n_epochs=30, netD="pixel")
    lines: list[str] = []
    model = import_checkpoint(folder, tmp_path / "m", say=lines.append)
    checked = load_recipe(model / "recipe.toml").check()

    assert checked.method.options["cycle"] == 10.0
    assert checked.train.epochs == 200
    assert any("with the defaults of losses and schedule" in line for line in lines)


# ---- an imported model is a model like any other


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> tuple[Path, list[nn.Module]]:
    """An imported CycleGAN, T1 <-> T2, and its generators."""
    place = tmp_path_factory.mktemp("imported")
    folder, networks = cyclegan(place / "maps", netD="basic")
    model = import_checkpoint(folder, place / "model", domains=("T1", "T2"), **QUIET)
    return model, networks


@pytest.fixture
def picture(tmp_path, imported) -> tuple[Path, np.ndarray]:
    """A picture of T1, and what the checkpoint's own program makes of it."""
    pixels = draw_picture(tmp_path / "given.png", 64, 1)
    return tmp_path / "given.png", as_test_py(imported[1][0], pixels, False)


def test_an_import_on_the_command_line_is_the_same(tmp_path, gantk, imported):
    out = tmp_path / "model"
    folder = imported[0].parent / "maps"
    gantk("import", folder, out, "--domains", "T1,T2").ok()
    assert (out / "recipe.toml").read_bytes() == (imported[0] / "recipe.toml").read_bytes()


@pytest.mark.slow
def test_an_import_as_onnx_makes_the_same(tmp_path, gantk, imported, picture):
    pytest.importorskip("onnxscript")
    path, expected = picture
    onnx = tmp_path / "m.onnx"
    gantk("export", imported[0], "--format", "onnx", "--to", "T2", "--out", onnx).ok()
    translate(onnx, path, tmp_path / "made.png", **QUIET)
    assert largest_difference(np.asarray(Image.open(tmp_path / "made.png")), expected) <= 1


@pytest.mark.slow
def test_a_training_starts_from_an_import(tmp_path, imported):
    recipe = load_recipe(imported[0] / "recipe.toml").tables
    recipe["data"]["source"] = {"name": "phantom", "subjects": 6, "slices": 2}
    recipe["train"] |= {"start": str(imported[0]), "steps": 1}
    del recipe["train"]["epochs"]
    lines: list[str] = []
    done = run(recipe, out=tmp_path / "run", device="cpu", say=lines.append)
    start = read_json(done.path / "environment.json")["start"]
    assert start["other_shape"] == start["unused"] == []
    assert all(name.startswith(("d_a", "d_b")) for name in start["not_there"])
