"""Plans a recipe of images from noise for inspected scans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gantk.errors import count_noun

ADAM = {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]}


def plan(
    seen: Any, size: Sequence[int], width: int, *, hours: float, dims: int, short: bool
) -> list[tuple[str, Any, str]] | None:
    """The rows of DCGAN for one kind of image: key of the recipe, value, reason."""
    if len(seen.domains) > 1:
        return None
    classes = sorted({record.label for record in seen.records if record.label is not None})
    told = f"the folders are classes, and images of each can be generated: {', '.join(classes)}"
    heart = (
        "shifts every image that the discriminator sees, which could memorise only"
        f" {count_noun(seen.records, 'image')}"
    )
    rows = [
        (
            True,
            "name",
            "dcgan",
            (
                "the names show one kind of image, so images are generated from noise; to"
                " translate, name two kinds with --set data.domains"
            ),
        ),
        (len(classes) > 1, "conditional", True, told),
        (
            True,
            "width",
            16 * width,
            "filters of the last layer; a longer training allows 64, as in the paper",
        ),
        (True, "up", "resize", "avoids checkerboard patterns; the paper uses transpose"),
        (True, "discriminator", {"name": "dcgan", "width": 16 * width}, "as wide as the generator"),
        (
            True,
            "adversarial",
            {"name": "bce", "smooth": 0.1},
            "label smoothing keeps the discriminator's gradient alive",
        ),
        (len(seen.records) < 5000, "augment", ["translate"], heart),
    ]
    slower = {"generator": ADAM, "discriminator": ADAM | {"lr": 1e-4}}
    why = "the discriminator learns more slowly, so that it does not win"
    found = [(f"method.{key}", value, why) for wanted, key, value, why in rows if wanted]
    found.append(("train.optimizers", slower, why))
    if len(classes) > 1:
        found.append(("data.labels", True, "the method gets the class of each image"))
    return found
