"""Times the translation of a volume by gantk, by an exported ONNX model and by a plain loop over
its slices.

    python benchmarks/translate_speed.py VOLUME [--case NAME]... [--rounds 3] [--json FILE]

"plain" is the loop of research scripts: reads the volume, applies the network to one axial slice at
a time (float32, channels-first, torch's own instance norm, the same image size), writes the result.
"gantk" is `gantk.translate` on the same file, from loading the run to the written file; "onnx" is
the same with the file of `gantk export`, in ONNX Runtime and float32. All use the same generator
from one untrained checkpoint, as its time does not depend on the weights. Memory is the peak of a
separate process, minus its memory after the imports.
"""

import tempfile
from concurrent.futures import ProcessPoolExecutor as Processes
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import gantk
from gantk.machine.runtime import start
from gantk.nets.blocks import InstanceNorm
from gantk_bench.harness import Turn, in_turns, parser, ratio, ratio_text, record, table, write

UNET = {"name": "unet", "width": 32, "depth": 5}
WAYS = ("plain", "gantk", "onnx")
CASES = {  # name -> (generator, image size of the network, data.fit)
    "unet at 96 x 96": (UNET, [96, 96], "pad"),
    "unet at the volume's own size": (UNET, [224, 192], "crop"),
    "unet at 256 x 256": ("unet", [256, 256], "pad"),
    "resnet-6 at 256 x 256": ({"name": "resnet", "blocks": 6}, [256, 256], "pad"),
}


def make_run(case: str, folder: Path) -> Path:
    """The path of a run with 0 training steps."""
    generator, size, fit = CASES[case]
    source = {"name": "phantom", "subjects": 6, "slices": 1}
    recipe = {
        "method": {
            "name": "cyclegan",
            "generator": generator,
            "discriminator": {"name": "patchgan", "width": 4},
        },
        "data": {"source": source, "domains": ["T1", "T2"], "size": size, "fit": fit},
        "train": {"steps": 0},
        "evaluate": {"samples": 1},
    }
    return gantk.run(recipe, out=folder, device="cpu", say=lambda line: None).path


by_gantk = partial(gantk.translate, device="cpu", say=lambda line: None)  # as a user does


class Plain:
    """The plain loop over slices; its network is loaded beforehand, outside the timed part."""

    def __init__(self, case: str, run: Path):
        _, self.size, fit = CASES[case]
        self.cropped = fit == "crop"
        self.network = gantk.load(run, device="cpu").method.g_ab.float()
        for name, part in list(self.network.named_modules()):
            if isinstance(part, InstanceNorm):
                parent, _, own = name.rpartition(".")
                setattr(self.network.get_submodule(parent), own, nn.InstanceNorm2d(part.channels))
        self.network.to(memory_format=torch.contiguous_format).eval()

    @torch.no_grad()
    def __call__(self, run: Path, volume: Path, output: Path) -> None:
        file = nib.load(volume)
        voxels = file.get_fdata(dtype=np.float32)
        scale = float(np.percentile(voxels, 99.5))
        result = np.empty_like(voxels)
        for k in range(voxels.shape[2]):
            image = (
                torch.from_numpy(np.ascontiguousarray(voxels[:, :, k].T[::-1, ::-1])) / scale * 2
                - 1
            )
            image, (height, width) = image[None, None], image.shape
            if self.cropped:
                fitted = F.pad(
                    image, (0, self.size[1] - width, 0, self.size[0] - height), value=-1.0
                )
                generated = self.network(fitted)[..., :height, :width]
            else:
                fitted = F.interpolate(image, self.size, mode="bilinear", antialias=True)
                generated = F.interpolate(self.network(fitted), (height, width), mode="bilinear")
            result[:, :, k] = ((generated[0, 0] + 1) / 2 * scale).numpy()[::-1, ::-1].T
        nib.save(nib.Nifti1Image(result, file.affine), output)


def resident_peak() -> int:
    """Peak memory of this process in bytes (Linux; getrusage starts from the parent's peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def memory_of(way: str, case: str, model: Path, volume: Path, output: Path) -> float:
    """GiB that a translation adds to the peak memory of this process."""
    before = resident_peak()
    (Plain(case, model) if way == "plain" else by_gantk)(model, volume, output)
    return (resident_peak() - before) / 2**30


def measure(case: str, volume: Path, folder: Path, rounds: int) -> dict:
    """The row of one case: seconds of each way in turns, their ratios, and memory of each in a
    separate process.
    """
    run = make_run(case, folder / "run")
    memory = {}
    onnx = gantk.export(run, out=folder / "b.onnx", say=lambda line: None)
    for way in WAYS:
        with Processes(1, get_context("spawn")) as one:
            given = case, onnx if way == "onnx" else run, volume, folder / f"{way}-once.nii.gz"
            memory[way] = one.submit(memory_of, way, *given).result()
    plain = Plain(case, run)
    calls = (
        partial(plain, run, volume, folder / "plain.nii.gz"),
        partial(by_gantk, run, volume, folder / "gantk.nii.gz"),
        partial(by_gantk, onnx, volume, folder / "onnx.nii.gz"),
    )
    seconds = in_turns(
        {way: Turn(call).take for way, call in zip(WAYS, calls, strict=True)}, rounds, warm=1
    )
    times = {way: ratio(seconds["plain"], seconds[way]) for way in WAYS[1:]}
    return {"case": case, "seconds": seconds, "times": times, "memory_gib": memory}


def main(arguments: list[str] | None = None) -> None:
    cli = parser(__doc__, rounds=3)
    cli.add_argument("volume", type=Path, help="a .nii.gz")
    cli.add_argument(
        "--case",
        action="append",
        choices=CASES,
        help="one of them; may be given again; default all",
    )
    options = cli.parse_args(arguments)
    rows = []
    for case in options.case or CASES:
        with tempfile.TemporaryDirectory() as place:
            rows.append(measure(case, options.volume, Path(place), options.rounds))
    write(options.json, record(start("cpu"), volume=options.volume.name, rows=rows))
    names = list(rows[0]["seconds"])
    medians = [[f"{np.median(row['seconds'][name]):.2f}" for name in names] for row in rows]
    lines = [
        [row["case"], *m, *map(ratio_text, row["times"].values())]
        for row, m in zip(rows, medians, strict=True)
    ]
    print(
        table(
            ["case", *(f"{name}, s" for name in names), *(f"plain : {way}" for way in WAYS[1:])],
            lines,
        )
    )


if __name__ == "__main__":
    main()
