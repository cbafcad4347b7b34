"""Names the shipped recipe of images from noise for inspected scans, and what is changed in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def plan(
    seen: Any, size: Sequence[int], *, hours: float, dims: int
) -> tuple[str, str, dict[str, Any]] | None:
    """R3GAN for one kind of image, which had a lower KID than DCGAN (benchmarks/results/
    images-from-noise.md); DCGAN where it is asked for, and in 3-D. Recipe, reason, keys of [method]
    to change in it.
    """
    if len(seen.domains) > 1:
        return None
    why = (
        "the names show one kind of image, so images are generated from noise; to translate, name"
        " two kinds with --set data.domains"
    )
    recipe = "dcgan_phantom" if seen.method == "dcgan" or dims == 3 else "r3gan_tumour"
    return recipe, why, {} if len(seen.classes) > 1 else {"conditional": None}
