"""The names of scores, regions, baselines and directions, in plain words; plugins bring the words of
their metrics and baselines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any

from gantk.plugin.loader import registry
from gantk.plugin.registry import Entry

# Suffixes of the names of scores in a region, by region as recipes name them.
FOREGROUND = "_foreground"
LESION = "_lesion"
SUFFIXES = {"whole": "", "foreground": FOREGROUND, "lesion": LESION}
# the end of what names of folders have in common, before the number of a fold or a seed
SERIAL = re.compile(r"(?<=\w)[\W_]+(fold|seed)?[\W_]*$", re.IGNORECASE)
AFTER_POSTS = ", after the post-steps"  # the end of the title of a direction
FEATURES = " features"  # the end of the plain name of a score by features
CEILING = "real_split"  # real images scored as generated: the best possible score, no baseline

# plain name of a baseline, and what it is; plugins add theirs
BASELINES = {
    "identity": (
        "the unchanged input",
        "The input image itself, scored as if it were the result.",
    ),
    "start": (
        "the model it started from",
        "The model before this training, on the same images.",
    ),
    "histogram": (
        "histogram matching",
        "The input, its histogram matched to the images of the other domain.",
    ),
    "intensity_map": (
        "a simple intensity map",
        "Each gray value of the input becomes its mean target value in other registered pairs.",
    ),
    "real_split": (
        "other real images",
        "Real images, scored as if they were generated. Of a model with a better score, this score cannot tell"
        " the images from real ones.",
    ),
    "noise": (
        "pixel noise",
        "Images of random gray values, for models that generate images from noise: to be better than"
        " these is no achievement. Compare with other real images.",
    ),
}

# metrics that no recipe names, by their score
WITH_MASKS = {
    "lesion_contrast": Entry(
        "metric",
        "lesion_contrast",
        "gantk.metrics.pairs:LesionContrast",
        "gantk, computed wherever there are lesion masks",
        words={
            "lesion_contrast": (
                "Lesion contrast",
                "How much the lesion stands out from the tissue around it: output divided by real image. 1 is"
                " kept, 0 is lost, below 0 is inverted. Holes of the mask are not around it. A lesion that hardly"
                " stands out in the real image, as where the mask lacks a tumour's core, is not counted.",
            )
        },
    )
}


def name_systems(systems: Sequence[Mapping[str, Any]]) -> list[str]:
    """The name of each system, which is its models or the records of its runs by path: the end of the
    path that a person types, of several what the ends have in common; the whole first path where two
    systems would have one name.
    """
    names = []
    for system in systems:
        ends = [Path(path).name for path in system]
        names.append(SERIAL.sub("", commonprefix(ends)) if len(ends) > 1 else ends[0])
    if all(names) and len({*names}) == len(names):
        return names
    return [next(iter(system)) for system in systems]


def title_of(key: str, domains: Sequence[str]) -> str:
    """Title of a direction: `T1 -> T2`, `T1 from noise`; the key itself if the domains are not
    known.
    """
    if key.endswith("_post") and domains:
        return f"{title_of(key.removesuffix('_post'), domains)}{AFTER_POSTS}"
    if key == "image" and domains:
        return f"{domains[0]} from noise"

    names = dict(zip("ab", domains, strict=False))
    source, _, target = key.partition("_to_")
    if names and target:
        return f"{names.get(source, source)} -> {names.get(target, target)}"

    return key


def baselines() -> dict[str, tuple[str, str]]:
    """Baseline -> its plain name, and what it is."""
    return BASELINES | registry().words("baseline")


def baseline_words(name: str, steps: int = 0) -> str:
    """`intensity_map` is a simple intensity map; a plugin's baseline without words keeps its name. Those
    that are trained end with their steps, where these are given: `... trained for 300 steps`.
    """
    words, _ = baselines().get(name, ("", ""))
    short = words or name.replace("_", " ")
    if steps and name in registry()["baseline"]:
        return f"{short} trained for {steps:,} steps"
    return short


def needs_pairs(baseline: str) -> bool:
    """Whether a baseline is fitted on registered pairs, as all that plugins register."""
    return baseline == "intensity_map" or baseline in registry()["baseline"]


def metric_words(score: str) -> tuple[str, str]:
    """A score's name in plain words and what it says, without its region; ("", "") where they are
    not known.
    """
    plain, _ = split_region(score)
    name, meaning, rest = _words_of(plain)
    return f"{name}, by {rest}{FEATURES}" if name and rest else name, meaning


def short_metric_name(score: str) -> str:
    """`psnr_foreground` is `PSNR in the foreground`, `ms_ssim` is MS-SSIM."""
    plain, region = split_region(score)
    name, _, rest = _words_of(plain)
    short = plain.replace("_", " ")
    if name.endswith(")"):
        abbreviation = name.rpartition("(")[2].removesuffix(")")
        short = f"{abbreviation} {rest}".rstrip()
    return f"{short} in the {region}" if region else short


def split_region(score: str) -> tuple[str, str]:
    """A score's name without its region, and the region at its end; "" for the whole image."""
    for region, suffix in SUFFIXES.items():
        if suffix and score.endswith(suffix):
            return score.removesuffix(suffix), region
    return score, ""


def region_of(score: str) -> str:
    """The region that a score is of, a word of its name; "" for the whole image."""
    words = score.split("_")
    return next((region for region in SUFFIXES if region in words), "")


def _words_of(score: str) -> tuple[str, str, str]:
    """Name and meaning of a score, and what stands behind a metric's name in it: `kid_random` is a
    KID by `random` features; ("", "", "") where they are not known.
    """
    known = registry().words("metric")
    for metric in WITH_MASKS.values():
        known |= metric.words
    head, _, rest = score.partition("_")
    if score in known:
        return *known[score], ""
    if head in known:
        return *known[head], rest.replace("_", " ")
    return "", "", ""


def join_words(items: Sequence[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    if len(items) == 1:
        return items[0]
    return f"{', '.join(items[:-1])} and {items[-1]}"
