"""Which metrics a recipe's method is scored by, and what they need, found out before anything is trained."""

from __future__ import annotations

from typing import Any

from gantk.errors import UserError
from gantk.method import Method
from gantk.metrics.reals import RealImages
from gantk.plugin.spec import bind_or_raise
from gantk.recipe.tables import Model

TRANSLATED = ("psnr", "ssim", "mae")  # by default, for methods that translate
SAMPLED = ("kid",)  # by default, for images from noise


def chosen_metrics(model: Model, reals: RealImages, method: Method, data_range: float) -> tuple[list[Any], list[Any]]:
    """(pair metrics, set metrics), built; UserError where one cannot judge this method or these data."""
    parts, pairs, sets = model.evaluate.metrics, bool(method.directions()), method.samples
    if parts is None:
        names = (TRANSLATED if pairs else ()) + (SAMPLED if sets else ())
        parts = [bind_or_raise("metric", name) for name in names]
    built = [part(data_range, model.data.dims) for part in parts]
    in_pairs = [metric for metric in built if not getattr(metric, "sets", False)]
    if in_pairs and not pairs:
        raise UserError(
            f"the metric '{in_pairs[0].name}' compares an output with its truth, and images from noise have none",
            where="evaluate.metrics",
            remedy="use metrics of sets: kid, fid, prdc, diversity, two_sample, "
            "or classification where classes are known",
        )
    whole = [metric for metric in built if getattr(metric, "sets", False)]
    for metric in whole:
        if getattr(metric, "needs_classes", False):
            _expect_classes(metric.name, reals, method)
        if getattr(metric, "needs_masks", False):
            _expect_masks(metric.name, reals, method)
            reals.masks = True
    return in_pairs, whole


def _expect_classes(name: str, reals: RealImages, method: Method) -> None:
    """Two classes of real images to learn and to test, and a known class of every made image."""
    letter = method.directions()[0] if method.directions() else method.reads[0]
    train, test = ({record.label for record in reals.labelled(split, letter)} for split in ("train", "test"))
    if len(train & test) < 2:
        raise UserError(
            f"the metric '{name}' needs real images of two classes to learn from and to be tested on; "
            f"known are {_listed(train)} among the training images and {_listed(test)} among the test images",
            where="evaluate.metrics",
            remedy="put images into one folder for each class, split so that both sides have each, or leave it out",
        )
    if not method.directions() and not method.geometry.classes and reals.only_label(letter, 1) is None:
        raise UserError(
            f"the metric '{name}' must know the class of a made image, and this method was trained on a mixture",
            where="evaluate.metrics",
            remedy="train a conditional method with data.labels = true, or on one class alone (data.source.only)",
        )


def _expect_masks(name: str, reals: RealImages, method: Method) -> None:
    """Masks of real images to learn and to test, and of what a made image shows."""
    if not method.directions():
        raise UserError(
            f"the metric '{name}' must know where the lesions of a made image are, and an image from noise has no mask",
            where="evaluate.metrics",
            remedy="leave it out; classification says whether such images are of use",
        )
    for letter in method.directions():
        counts = []
        for split in ("train", "test"):
            masks = [reals.masked(record) is not None for record in reals.records(split, letter)]
            counts.append((sum(masks), len(masks)))
        if not all(known for known, _ in counts):
            training, test = (f"{known} of {count}" for known, count in counts)
            raise UserError(
                f"the metric '{name}' needs real images with lesion masks to learn from and to be tested on, and "
                f"{training} training images and {test} test images have one",
                where="evaluate.metrics",
                remedy='name the masks (data.source.mask = "seg"), give the phantom lesions, or leave it out',
            )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
