"""A recipe that trains in about a second, pictures to train it on, and where the project lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

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


def draw_pictures(folder: Path, count: int, *, size: tuple[int, int] = (32, 32), seed: int = 0) -> list[Path]:
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
