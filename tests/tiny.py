"""A recipe that trains in about a second, pictures to train it on, what a command left, where the
project lies.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from PIL import Image
from safetensors.torch import load_file

from gantk import registry
from gantk.machine.runtime import Runtime
from gantk.method import Geometry, Method
from gantk.plugin.registry import Entry
from gantk.plugin.spec import bind

ROOT = Path(__file__).resolve().parent.parent

TINY = {
    "format": 1,
    "summary": "Seconds on one core.",
    "method": {
        "name": "dualgan",
        "generator": {"name": "unet", "width": 4, "depth": 3},
        "discriminator": {"name": "patchgan", "width": 4, "receptive_field": 16},
        "cycle": 5.0,
        "local_ncc": 2.0,
        "flat_region": 4.0,
        "pool": 4,
    },
    "data": {
        "source": {"name": "phantom", "subjects": 6, "slices": 2},
        "domains": ["T1", "T2"],
        "size": [32, 32],
        "split": {"test": 0.2, "validation": 0.2},
    },
    "train": {
        "steps": 4,
        "batch": 2,
        "precision": "fp32",
        "ema": 0.9,
        "log_every": 1,
        "sample_every": 4,
        "save_every": 2,
    },
    "evaluate": {"metrics": ["psnr", "mae"], "samples": 1},
}


def parts_with_options() -> list[Entry]:
    """Every registered part whose options a recipe can say, by kind and name: all but layouts, which
    are lines of text.
    """
    return [
        entry
        for key, entry in sorted(registry().entries.items())
        if key[0] not in ("layout", "function")
    ]


@dataclass
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    def ok(self) -> "Outcome":
        """The same, of a command that must succeed."""
        assert self.code == 0, self.err + self.out
        return self

    def refused(self) -> str:
        """What a command that must refuse what it is given says, on one line."""
        assert self.code == 2, self.err + self.out
        return " ".join(self.err.split())


def python(*words: object, cwd: Path | None = None, **environment: str) -> Outcome:
    """What `python WORDS` left, a process of its own."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


CPU = Runtime(torch.device("cpu"), "fp32", False)
UNET = {"name": "unet", "width": 4, "depth": 2}
PATCHGAN = {"name": "patchgan", "width": 4, "layers": 3}


def train_without_scores(recipe: object, out: Path, **options: Any) -> Path:
    """The folder of a finished training, whose images are not scored and which has no report of
    scores; options as of `gantk.training`.
    """
    import gantk

    options = {"device": "cpu", "say": lambda line: None} | options
    with gantk.training(recipe, out=out, **options) as training:
        training.fit()
    return out


def small_run(
    folder: Path, method: dict, steps: int = 0, post=(), scored: bool = False, **data
) -> Path:
    """A run of a method on the phantom at 32 px whose weights are those drawn, or a few steps on.

    It has scores and a report only if it is to be `scored`, which takes six times as long.
    """
    import gantk

    source = data.pop("source", {})
    if "name" not in source:
        source = {"name": "phantom", "subjects": 6, "slices": 2} | source
    table = {
        "source": source,
        "domains": ["T1", "T2"],
        "size": [32, 32],
        "split": {"test": 0.25, "validation": 0.0},
    }
    train = {"steps": steps, "batch": 2, "precision": "fp32"}
    tables = {
        "method": method,
        "data": table | data,
        "train": train,
        "post": [*post],
        "evaluate": {"samples": 1, "images": 8},
    }
    if scored:
        return gantk.run(tables, out=folder / "run", device="cpu", say=lambda line: None).path
    return train_without_scores(tables, folder / "run")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), "utf-8")


def write_toml(path: Path, tables: Mapping[str, Any]) -> Path:
    path.write_text(tomli_w.dumps(tables), "utf-8")
    return path


def weights_of(run: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    """The weights of a run's last checkpoint, or of that of a step."""
    name = "step-*" if step is None else f"step-{step:06d}"
    *_, checkpoint = sorted((run / "checkpoints").glob(name))
    return load_file(checkpoint / "weights.safetensors")


def same_weights(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether weights have the same names, and the same numbers to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def draw_pictures(
    folder: Path, count: int, *, size: tuple[int, int] = (32, 32), seed: int = 0
) -> list[Path]:
    """PNG pictures of seeded blobs in `folder`, no two alike; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[: size[0], : size[1]]
    paths = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        image = np.zeros(size)
        for y, x, width, height in rng.uniform((4, 4, 2, 60), (28, 28, 6, 200), (5, 4)):
            image += height * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
        paths.append(folder / f"slice-{number:02d}.png")
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(paths[-1])

    return paths


def registered(kind: str, name: str):
    """The class or function of a part, by its name in a recipe."""
    return registry().get(kind, name).load()


def phantom(domains: tuple[str, ...], dims: int, size: tuple[int, ...], **options):
    """The source of synthetic heads with options, as a recipe names it."""
    return bind("source", {"name": "phantom"} | options)(domains, dims, size)


def method_of(
    table: dict,
    size: tuple[int, ...] = (16, 16),
    channels: Iterable[int] | dict[str, int] = (1, 1),
    **about,
) -> Method:
    """A recipe's method for the domains a and b, or for those named, its weights drawn from seed 0."""
    if not isinstance(channels, dict):
        channels = dict(zip("ab", channels, strict=True))
    torch.manual_seed(0)
    return bind("method", table)(Geometry(len(size), size, channels, **about))


def random_images(count: int, channels: int, size: Iterable[int], seed: int = 0) -> torch.Tensor:
    """Random images (count, channels, *size) in [-1, 1]; torch's global generator is not used."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, *size, generator=generator) * 2 - 1
