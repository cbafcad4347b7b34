"""Compares imported checkpoints with the program that wrote them.

    python benchmarks/imported_checkpoints.py --pix2pix CHECKOUT --cut CHECKOUT --work FOLDER

CHECKOUT is a clone of github.com/junyanz/pytorch-CycleGAN-and-pix2pix, and of
github.com/taesungp/contrastive-unpaired-translation. Their own code builds each network, draws its
weights and saves the checkpoint; a few images give batch norm its statistics. Their own test.py
translates pictures of 256 x 256. `gantk import` and `gantk translate` do the same. The table has
the largest difference of any pixel, and the contrast of the flattest result of test.py, both in
gray levels of 255. They need torchvision, dominate, requests, beautifulsoup4 and packaging.

Nothing is trained: a few steps of a network without norm may diverge, and one with batch norm has
flat results with --eval. Dropout is compared with --eval, because without it test.py draws random
results.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 256
PICTURES = 2
LEVELS = 255
NORMS = ("instance", "batch", "none")
RESNETS = ("resnet_9blocks", "resnet_6blocks")
UNETS = ("unet_256", "unet_128")
OTHER_SIZES = ((384, 320), (200, 268))
COLUMNS = ("model", "network", "norm", "channels", "dropout", "antialias", "direction", "--eval")
COLUMNS += ("largest difference", "contrast")


@dataclass(frozen=True)
class Case:
    """A checkpoint to be written, read and compared."""

    program: str
    model: str
    network: str
    norm: str
    channels: int
    dropout: bool = False
    direction: str = "AtoB"
    antialias: str = "both"  # of CUT: both, down, none

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in asdict(self).values())

    @property
    def options(self) -> list[str]:
        """The options of train.py and test.py that describe the network."""
        norm = "--normG" if self.program == "cut" else "--norm"
        options = ["--name", self.name, "--model", self.model, "--netG", self.network]
        options += [norm, self.norm, "--direction", self.direction, "--ngf", "8", "--ndf", "8"]
        options += ["--input_nc", str(self.channels), "--output_nc", str(self.channels)]
        options += ["--gpu_ids", "-1", "--num_threads", "0"]
        if self.model == "pix2pix" and not self.dropout:
            options += ["--no_dropout"]
        if self.program == "cut":
            options += ["--no_dropout", str(not self.dropout)]
            options += {"both": [], "down": ["--no_antialias_up"]}.get(
                self.antialias, ["--no_antialias", "--no_antialias_up"]
            )
        return options


def cases() -> Iterator[Case]:
    """Every generator, norm and number of channels; dropout where the program allows it."""
    for network, norm, channels in product((*RESNETS, *UNETS), NORMS, (1, 3)):
        yield Case("pix2pix", "cycle_gan", network, norm, channels)
        direction = "AtoB" if channels == 1 else "BtoA"
        yield Case("pix2pix", "pix2pix", network, norm, channels, True, direction)

    for network, norm, channels in product(RESNETS, NORMS, (1, 3)):
        yield Case("cut", "cut", network, norm, channels)
    for antialias, direction in (("down", "AtoB"), ("none", "BtoA")):
        yield Case("cut", "cut", "resnet_9blocks", "instance", 1, True, direction, antialias)


def draw_pictures(folder: Path, size: tuple[int, int] = (SIDE, SIDE)) -> None:
    """Smooth pictures of shapes, dark ones too, in the folders of both programs."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(PICTURES):
            noise = rng.integers(0, 256, (2, 12, 12, 3)).astype(np.uint8)
            if number == PICTURES - 1:
                noise //= 4
            a, b = (Image.fromarray(each).resize(size, Image.BICUBIC) for each in noise)
            both = Image.new("RGB", (2 * size[0], size[1]))
            both.paste(a, (0, 0))
            both.paste(b, (size[0], 0))
            for name, picture in ((f"{split}A", a), (f"{split}B", b), (split, both)):
                (folder / name).mkdir(parents=True, exist_ok=True)
                picture.save(folder / name / f"{number}.png")


def run_program(checkout: str, jobs: list[list[str]]) -> None:
    """Run scripts of a checkout one after the other, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(jobs)]
    subprocess.run(command, cwd=checkout, check=True, stdout=subprocess.DEVNULL)


def work_off(jobs: list[list[str]]) -> None:
    """Run each job, a script and its arguments, in this process."""
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, os.getcwd())
    _read_gray_in_cut()
    for job in jobs:
        torch.manual_seed(0)
        sys.argv = job
        if job[0] == "train.py":
            write_checkpoint()
        else:
            runpy.run_path(job[0], run_name="__main__")


def write_checkpoint() -> None:
    """Save the networks and options of sys.argv as train.py saves them, without a training step.

    A checkpoint that CUT writes on a CPU has a prefix that its own test.py cannot read. It is kept
    as wrapped_net_G.pth, beside one without the prefix.
    """
    import torch
    from data import create_dataset
    from models import create_model
    from options.train_options import TrainOptions

    options = TrainOptions().parse()
    images = list(create_dataset(options))
    model = create_model(options)
    generators = [getattr(model, f"net{name}") for name in model.model_names if name[0] == "G"]
    model.set_input(images[0])
    for generator in generators:
        draw_weights(generator, model.real_A)
    with torch.no_grad():
        for image in images:  # each is one more in the means of batch norm
            model.set_input(image)
            model.forward()

    model.save_networks("latest")
    if hasattr(model, "parallelize"):
        model.parallelize()
        model.save_networks("wrapped")


def draw_weights(network: Any, image: Any) -> None:
    """Draw offsets and scales too, which are 0 and 1 at first, and give the results of the network
    contrast.
    """
    import torch
    from torch import nn

    convolutions = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of all images
            nn.init.normal_(layer.weight, 1, 0.2)
    for layer in network.modules():
        if getattr(layer, "bias", None) is not None:
            nn.init.normal_(layer.bias, 0, 0.1)

    outputs = []
    last = convolutions[-1]
    hook = last.register_forward_hook(lambda layer, given, made: outputs.append(made))
    with torch.no_grad():
        network(image)
        deviation = outputs[0].std()
        last.weight /= deviation
        last.bias -= outputs[0].mean((0, 2, 3))
        last.bias /= deviation
    hook.remove()


def _read_gray_in_cut() -> None:
    """Let CUT read gray pictures for --input_nc 1, which its unpaired data set does not: a change
    that users make.
    """
    from data import base_dataset, unaligned_dataset

    if not hasattr(base_dataset, "__scale_shortside"):
        return

    def get_transform(opt, *args, **options):
        return base_dataset.get_transform(opt, *args, grayscale=opt.input_nc == 1, **options)

    unaligned_dataset.get_transform = get_transform


def train_job(case: Case, work: Path) -> list[str]:
    init = ["--init_type", "kaiming", "--init_gain", "1.0"]
    sizes = ["--load_size", "286", "--crop_size", "256"]
    rest = ["--display_id", "0", "--no_html", "--checkpoints_dir", str(work / "checkpoints")]
    data = str(work / "pictures")
    return ["train.py", "--dataroot", data, *case.options, *init, *sizes, *rest]


def test_job(case: Case, work: Path, evaluated: bool, pictures: str, *more: str) -> list[str]:
    results = str(work / "results" / pictures / ("eval" if evaluated else "default"))
    rest = ["--checkpoints_dir", str(work / "checkpoints"), "--results_dir", results]
    flags = ["--eval"] if evaluated else []
    data = str(work / pictures)
    return ["test.py", "--dataroot", data, *case.options, *rest, *flags, *more]


def is_made(case: Case, work: Path) -> bool:
    """Whether an earlier call has run the program for this case."""
    return (work / "checkpoints" / case.name).exists()


def modes(case: Case) -> list[bool]:
    """Whether test.py is run with --eval: both where that changes something reproducible."""
    if case.dropout:
        return [True]
    return [False, True] if case.norm == "batch" else [False]


def compare(case: Case, work: Path, evaluated: bool, pictures: str, fit: str = "") -> str:
    """The largest difference of all pictures and directions, and the least contrast of a result of
    test.py, as cells of the table.
    """
    import gantk

    mode = "eval" if evaluated else "default"
    quiet = {"say": lambda line: None}
    out = work / "models" / f"{case.name}-{mode}{fit}"
    settings = {"eval": evaluated}
    if fit:
        settings["preprocess"] = fit
    if case.program == "cut" and not fit:
        settings["epoch"] = "wrapped"
    if not out.exists():
        source = work / "checkpoints" / case.name
        gantk.import_checkpoint(source, out, domains=("first", "second"), set=settings, **quiet)

    found = work / "results" / pictures / mode / case.name / "test_latest" / "images"
    other = case.direction == "BtoA"
    ways = {"second": ("A", "fake_B"), "first": ("B", "fake_A")}
    if case.model != "cycle_gan":
        ways = {"first": ("B", "fake_B")} if other else {"second": ("A", "fake_B")}

    largest = 0
    contrast = LEVELS
    for to, (letter, label) in ways.items():
        for number in range(PICTURES):
            picture = Image.open(work / pictures / f"test{letter}" / f"{number}.png")
            given = work / "given" / f"{number}.png"
            given.parent.mkdir(exist_ok=True)
            picture.convert("L" if case.channels == 1 else "RGB").save(given)
            made = given.with_name(f"made-{number}.png")
            made.unlink(missing_ok=True)
            gantk.translate(out, given, made, to=to, **quiet)
            if case.program == "cut":
                expected = found / label / f"{number}.png"
            else:
                expected = found / f"{number}_{label}.png"
            ours = np.asarray(Image.open(made).convert("RGB"), np.int16)
            theirs = np.asarray(Image.open(expected).convert("RGB"), np.int16)
            largest = max(largest, int(np.abs(ours - theirs).max()))
            contrast = min(contrast, int(np.ptp(theirs)))

    return f"{largest} | {contrast}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pix2pix", help="clone of pytorch-CycleGAN-and-pix2pix")
    parser.add_argument("--cut", help="clone of contrastive-unpaired-translation")
    parser.add_argument("--work", help="new folder for pictures, checkpoints and models")
    parser.add_argument("--only", default="", help="only cases whose name has this in it")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work_off(json.loads(options.worker))
        return

    work = Path(options.work).resolve()
    draw_pictures(work / "pictures")
    for size in OTHER_SIZES:
        draw_pictures(work / f"pictures-{size[0]}x{size[1]}", size)

    chosen = [case for case in cases() if options.only in case.name]
    for program, checkout in (("pix2pix", options.pix2pix), ("cut", options.cut)):
        own = [case for case in chosen if case.program == program and not is_made(case, work)]
        if checkout and own:
            jobs = [train_job(case, work) for case in own]
            for case in own:
                jobs += [test_job(case, work, mode, "pictures") for mode in modes(case)]
                jobs += _other_sizes(case, work)
            run_program(checkout, jobs)

    print(f"| {' | '.join(COLUMNS)} |")
    print(f"{'|---' * len(COLUMNS)}|")
    for case in chosen:
        about = [case.model, case.network, case.norm, case.channels, case.dropout]
        about += [case.antialias if case.program == "cut" else "", case.direction]
        for mode in modes(case):
            print_row(about, mode, compare(case, work, mode, "pictures"))
        for size in OTHER_SIZES if _other_sizes(case, work) else ():
            name = f"pictures-{size[0]}x{size[1]}"
            where = f"{case.direction}, {size[0]} x {size[1]}"
            print_row([*about[:-1], where], False, compare(case, work, False, name, "none"))


def _other_sizes(case: Case, work: Path) -> list[list[str]]:
    """Tests at other sizes, for ResNets without dropout: a U-Net of 8 halvings takes none."""
    if case.network not in RESNETS or case.dropout or case.channels != 1:
        return []
    names = [f"pictures-{size[0]}x{size[1]}" for size in OTHER_SIZES]
    return [test_job(case, work, False, name, "--preprocess", "none") for name in names]


def print_row(about: list, evaluated: bool, compared: str) -> None:
    cells = [*about, "yes" if evaluated else "no", compared]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
