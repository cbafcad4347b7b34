"""Times the start of gantk's commands, compared with starting Python and importing torch.

    python benchmarks/startup.py [--rounds 10] [--json FILE]

Every sample is a process of its own. Wall seconds run from the start of the process to its end; for
"first step" to the end of the first training step of a small recipe (usage.json). CPU seconds, of
all threads, are given as well: other load on the machine changes them less.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from harness import finish, in_turns, parser, ratio, ratio_text
from PIL import Image

RECIPE = """
[method]
name = "cyclegan"
generator = { name = "unet", width = 16, depth = 4 }
discriminator = { name = "patchgan", width = 16 }
[data]
source = { name = "phantom", subjects = 10, slices = 4 }
domains = ["T1", "T2"]
size = [96, 96]
[train]
steps = 1
batch = 2
[evaluate]
samples = 1
"""
GANTK = ["-m", "gantk"]
WAYS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "gantk --help": [*GANTK, "--help"],
    "gantk run --help": [*GANTK, "run", "--help"],
    "gantk list": [*GANTK, "list"],
    "gantk plugins": [*GANTK, "plugins"],
    "gantk recipes": [*GANTK, "recipes"],
    "first slice (png)": [*GANTK, "translate", "run", "slice.png", "out.png", "--device", "cpu"],
    "first slice (nii.gz)": [
        *GANTK,
        "translate",
        "run",
        "slice.nii.gz",
        "out.nii.gz",
        "--device",
        "cpu",
    ],
    "first step": [*GANTK, "run", "small.toml", "--device", "cpu"],
}


def seconds_of(name: str, folder: Path, out: str | None = None) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of one Python process; raises CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        run = Path(temporary) / "run" if out is None else folder / out
        words = [*WAYS[name], *(["--out", str(run)] if name == "first step" else [])]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, check=True)
        wall = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if name == "first step":
            wall = json.loads((run / "usage.json").read_text())["first_step_s"]
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    options = parser(__doc__, rounds=10).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "small.toml").write_text(RECIPE)
        seconds_of("first step", folder, "run")
        values = np.random.default_rng(0).uniform(0, 800, (96, 96, 1)).astype(np.int16)
        nib.save(nib.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])), folder / "slice.nii.gz")
        Image.fromarray((values[..., 0] // 4).astype(np.uint8)).save(folder / "slice.png")
        found = in_turns(
            {name: partial(seconds_of, name, folder) for name in WAYS}, options.rounds, warm=1
        )
    wall, cpu = (
        {name: [each[i] for each in samples] for name, samples in found.items()} for i in (0, 1)
    )
    times = {name: ratio(samples, wall["import torch"]) for name, samples in wall.items()}
    rows = [
        (n, f"{np.median(wall[n]):.3f}", f"{np.median(cpu[n]):.3f}", ratio_text(times[n]))
        for n in WAYS
    ]
    heads = ["process", "wall, s", "CPU, s", "times `import torch`"]
    finish(options.json, heads, rows, wall_s=wall, cpu_s=cpu, times_torch=times)
