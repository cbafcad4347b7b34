"""How long a volume takes to translate, beside the plain loop over its slices, and how much memory: one process each
for memory, one for both in turns for time. And how long a folder takes, side by side and one file after the other.

    python benchmarks/translate_speed.py VOLUME [--case NAME]... [--rounds 3] [--json FILE]
    python benchmarks/translate_speed.py --folder [--kind nii.gz|png|dcm]... [--rounds 3] [--json FILE]

Plain is what research scripts do: read the volume; for each axial slice, in float32, channels-first, one at a time,
the network, with torch's own instance norm, at the same size; write. gantk's is `gantk.translate` on the same file,
from reading the run to the written file. Both have the same generator from the same checkpoint, which is the run's own
start: how long a network takes does not depend on what it has learned. OMP_NUM_THREADS sets the threads of both.

With --folder the files are made here: volumes as .nii.gz, pictures, or DICOM series. One way reads the next file and
writes the last one while the network is at work, the other does one thing after the other; their results are compared
before anything is timed. The share at work is that of the wall time in which the network computes, copies included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from datetime import date
from pathlib import Path

import numpy as np

UNET = {"name": "unet", "width": 32, "depth": 5}
RESNET = {"name": "resnet", "width": 32, "blocks": 9}
CASES = {  # name: generator, sides that it sees, how slices are brought to them
    "unet at 96 x 96": (UNET, [96, 96], "pad"),
    "unet at the volume's own size": (UNET, [224, 192], "crop"),
    "resnet at 96 x 96": (RESNET, [96, 96], "pad"),
    "resnet at the volume's own size": (RESNET, [224, 192], "crop"),
}


FILES = {"nii.gz": 6, "png": 60, "dcm": 4}  # how many of each a folder has
FOLDER_CASE = "unet at 96 x 96"


def make_run(case: str, folder: Path, pipelined: bool = True) -> Path:
    """A run of no steps, as a training would leave it."""
    import gantk

    generator, size, fit = CASES[case]
    recipe = {
        "method": {"name": "cyclegan", "generator": generator, "discriminator": {"name": "patchgan", "width": 4}},
        "data": {
            "source": {"name": "phantom", "subjects": 6, "slices": 1},
            "domains": ["T1", "T2"],
            "size": size,
            "fit": fit,
        },
        "train": {"steps": 0},
        "evaluate": {"samples": 1},
        "translate": {"pipelined": pipelined},
    }
    return gantk.run(recipe, out=folder, device="cpu", say=lambda line: None).path


def ours(run: Path, volume: Path, output: Path) -> None:
    """What a user calls."""
    import gantk

    gantk.translate(run, volume, output, device="cpu", say=lambda line: None)


class Plain:
    """The loop over slices; the network is built and loaded ahead of the time that counts."""

    def __init__(self, case: str, run: Path):
        import gantk

        self.size, self.cropped = CASES[case][1], CASES[case][2] == "crop"
        self.network = with_torchs_norms(deepcopy(gantk.load(run, device="cpu").method.g_ab).float())

    def __call__(self, run: Path, volume: Path, output: Path) -> None:
        import nibabel as nib
        import torch
        import torch.nn.functional as F

        file = nib.load(volume)
        voxels = file.get_fdata(dtype=np.float32)
        scale = float(np.percentile(voxels, 99.5))
        result = np.empty_like(voxels)
        with torch.no_grad():
            for k in range(voxels.shape[2]):
                image = torch.from_numpy(np.ascontiguousarray(voxels[:, :, k].T[::-1, ::-1])) / scale * 2 - 1
                image, (height, width) = image[None, None], image.shape
                if self.cropped:
                    rest = self.size[1] - width, self.size[0] - height
                    seen = F.pad(image, (0, rest[0], 0, rest[1]), value=-1.0)
                    made = self.network(seen)[..., :height, :width]
                else:
                    seen = F.interpolate(image, self.size, mode="bilinear", antialias=True)
                    made = F.interpolate(self.network(seen), (height, width), mode="bilinear")
                result[:, :, k] = ((made[0, 0] + 1) / 2 * scale).numpy()[::-1, ::-1].T
        nib.save(nib.Nifti1Image(result, file.affine), output)


def with_torchs_norms(network):
    """The network with torch's own instance norm, its weights in channels-first."""
    import torch
    from torch import nn

    from gantk.nets.blocks import InstanceNorm

    for name, part in list(network.named_modules()):
        if isinstance(part, InstanceNorm):
            parent = network.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.InstanceNorm2d(part.channels))
    return network.to(memory_format=torch.contiguous_format).eval()


def once(way: str, case: str, run: Path, volume: Path, output: Path) -> dict[str, float]:
    """Bytes of memory at the peak of one way, alone in this process, and those of the interpreter before it."""
    before = resident_peak()
    (ours if way == "gantk" else Plain(case, run))(run, volume, output)
    return {"interpreter": before, "peak": resident_peak()}


def resident_peak() -> int:
    """Bytes of memory that this process held at most (Linux; getrusage starts from what the parent process held)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def peak_of(way: str, case: str, run: Path, volume: Path, output: Path) -> dict[str, float]:
    """What `once` says, from a process of its own."""
    command = [sys.executable, __file__, str(volume), "--once", way, case, str(run), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every way in every round, in turns, the order reversed every other round, after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name in list(ways) if turn % 2 else list(reversed(ways)):
            began = time.perf_counter()
            ways[name]()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def make_files(kind: str, folder: Path) -> None:
    """Compressed volumes of 160 x 160 x 48, pictures of 320 x 320, or series of 32 slices of 192 x 192."""
    import nibabel as nib
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    shape = {"nii.gz": (160, 160, 48), "png": (320, 320, 1), "dcm": (192, 192, 32)}[kind]
    folder.mkdir()
    for number in range(FILES[kind]):
        smooth = gaussian_filter(rng.standard_normal(shape), (3, 3, 0))
        values = ((smooth - smooth.min()) / np.ptp(smooth) * 600 + rng.uniform(0, 20, shape)).astype(np.int16)
        if kind == "nii.gz":
            nib.save(nib.Nifti1Image(values, np.diag([1.2, 1.2, 3.0, 1.0])), folder / f"scan{number}.nii.gz")
        elif kind == "png":
            Image.fromarray((values[..., 0] // 4).astype(np.uint8)).save(folder / f"slice{number}.png")
        else:
            write_series(values, folder / f"series{number}")


def write_series(values: np.ndarray, folder: Path) -> None:
    """An MR series of one file a slice."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir()
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(values.shape[2]):
        slice_ = Dataset()
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.SOPClassUID, slice_.SOPInstanceUID = MRImageStorage, generate_uid()
        slice_.SeriesInstanceUID, slice_.StudyInstanceUID, slice_.FrameOfReferenceUID = series, study, frame
        slice_.Modality, slice_.PatientID, slice_.PatientName, slice_.InstanceNumber = "MR", "1", "Nobody", k + 1
        slice_.ImagePositionPatient, slice_.ImageOrientationPatient = [0, 0, 3 * k], [1, 0, 0, 0, 1, 0]
        slice_.PixelSpacing, slice_.SliceThickness = [1.2, 1.2], 3
        slice_.Rows, slice_.Columns = values.shape[:2]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 0
        slice_.PixelData = np.ascontiguousarray(values[:, :, k]).astype("<u2").tobytes()
        slice_["PixelData"].VR = "OW"
        slice_.save_as(folder / f"IM{k:04d}.dcm", enforce_file_format=True)


def folder_row(kind: str, folder: Path, rounds: int) -> dict:
    """A folder of one kind of files, side by side and one after the other."""
    import gantk
    from gantk.inference.pipeline import PLAIN
    from gantk.inference.translation import Translation

    source, out, at_work = folder / "in", folder / "out", [0.0]
    make_files(kind, source)

    def timed(network: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        def run(batch: np.ndarray) -> np.ndarray:
            began = time.perf_counter()
            made = network(batch)
            at_work[0] += time.perf_counter() - began
            return made

        return run

    ways = {}
    for name, pipelined in (("side by side", True), ("one after the other", False)):
        model = gantk.load(make_run(FOLDER_CASE, folder / name, pipelined), device="cpu")
        whole = model.pipeline(model.domain(None))
        whole.run = timed(whole.run)
        ways[name] = Translation(model, None, PLAIN, None, lambda line: None, None)

    def translate(name: str) -> None:
        shutil.rmtree(out, ignore_errors=True)
        ways[name].path(source, out)

    seen = {}
    for name in ways:
        translate(name)
        seen[name] = pixels_of(out)
    if not all(map(np.array_equal, *seen.values())):
        raise SystemExit(f"{kind}: the two ways differ")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    shares: dict[str, list[float]] = {name: [] for name in ways}
    load = os.getloadavg()[0]
    for turn in range(rounds):
        for name in list(ways) if turn % 2 else list(reversed(ways)):
            at_work[0], began = 0.0, time.perf_counter()
            translate(name)
            seconds[name].append(time.perf_counter() - began)
            shares[name].append(at_work[0] / seconds[name][-1])
    ratios = np.divide(seconds["one after the other"], seconds["side by side"])
    return {
        "kind": kind,
        "files": FILES[kind],
        "seconds": seconds,
        "share_at_work": shares,
        "times_faster": {"median": float(np.median(ratios)), "from": ratios.min(), "to": ratios.max()},
        "load_before": load,
    }


def pixels_of(folder: Path) -> list[np.ndarray]:
    """What a folder of results shows, in order."""
    from gantk.formats.files import read, scans

    return [read(scan).pixels for scan in scans(folder)]


def measure(case: str, volume: Path, folder: Path, rounds: int) -> dict:
    """Time and memory of both ways."""
    run = make_run(case, folder / "run")
    out = {name: folder / f"{name}.nii.gz" for name in ("gantk", "plain")}
    memory = {name: peak_of(name, case, run, volume, out[name]) for name in out}
    plain = Plain(case, run)
    load = os.getloadavg()[0]
    ways = {
        name: lambda way=way, name=name: way(run, volume, out[name])
        for name, way in (("plain", plain), ("gantk", ours))
    }
    seconds = in_turns(ways, rounds)
    ratios = np.array(seconds["plain"]) / np.array(seconds["gantk"])
    return {
        "case": case,
        "generator": CASES[case][0],
        "seconds": seconds,
        "times_faster": {"median": float(np.median(ratios)), "from": ratios.min(), "to": ratios.max()},
        "memory": memory,
        "over_interpreter_gib": {name: (each["peak"] - each["interpreter"]) / 2**30 for name, each in memory.items()},
        "load_before": load,
    }


def folders(options: argparse.Namespace, record: dict) -> None:
    """Measure, print and keep what --folder asks for."""
    record |= {"what": "seconds to translate a folder of files", "case": FOLDER_CASE, "kinds": []}
    for kind in options.kind or FILES:
        with tempfile.TemporaryDirectory() as folder:
            row = folder_row(kind, Path(folder), options.rounds)
        record["kinds"].append(row)
        faster, share = row["times_faster"], row["share_at_work"]
        print(
            f"{kind:<8} one after the other {np.median(row['seconds']['one after the other']):6.2f} s   side by side "
            f"{np.median(row['seconds']['side by side']):6.2f} s   {faster['median']:.2f}x [{faster['from']:.2f}, "
            f"{faster['to']:.2f}]   at work {np.median(share['one after the other']):.0%} and "
            f"{np.median(share['side by side']):.0%} of the time"
        )
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", type=Path, nargs="?", help="a .nii.gz")
    parser.add_argument("--folder", action="store_true", help="measure folders of files that are made here instead")
    parser.add_argument("--kind", action="append", choices=FILES, help="of these; may be given again; default all")
    parser.add_argument("--case", action="append", choices=CASES, help="one of them; may be given again; default all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--once", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        way, case, run, output = options.once
        print(json.dumps(once(way, case, Path(run), options.volume, Path(output))))
        return

    if options.folder == (options.volume is not None):
        parser.error("give a VOLUME, or --folder")

    from gantk.machine.runtime import describe, start

    if options.folder:
        folders(options, {"date": date.today().isoformat(), "machine": describe(start("cpu"))})
        return
    record = {
        "date": date.today().isoformat(),
        "machine": describe(start("cpu")),
        "volume": options.volume.name,
        "what": "seconds to translate a volume, file to file; times faster: of pairs that ran one after the other",
        "cases": [],
    }
    for case in options.case or CASES:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(case, options.volume, Path(folder), options.rounds)
        record["cases"].append(row)
        faster = row["times_faster"]
        print(
            f"{case:<34} gantk {np.median(row['seconds']['gantk']):6.1f} s   plain "
            f"{np.median(row['seconds']['plain']):6.1f} s   {faster['median']:.1f}x [{faster['from']:.1f}, "
            f"{faster['to']:.1f}]   memory {row['over_interpreter_gib']['gantk']:.2f} GiB"
        )
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
