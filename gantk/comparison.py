"""Scoring files against files: any tool's output against the truth, no model needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.data.io import list_images, read, stem_of
from gantk.errors import UserError
from gantk.metrics.scoring import report, score_row, scores_of
from gantk.metrics.sets import ImageGroup
from gantk.spec import Part, bind_or_raise


def compare_folders(predicted: Path, truth: Path, metrics: list[str]) -> dict[str, Any]:
    """Scores of files against files; the data range is the file type's, or the set's for floats.

    Metrics of pairs take files of the same name; those of sets, such as kid, take each folder as a whole, whatever the
    names, and then the truth stands for training images too.
    """
    parts = [bind_or_raise("metric", name) for name in metrics]
    sets = [part for part in parts if getattr(part.target, "sets", False)]
    rows: dict[str, Any] = {}
    if len(sets) < len(parts):
        rows |= _pair_rows(_matched(predicted, truth), [part for part in parts if part not in sets])
    if sets:
        rows |= _set_rows([_files(predicted), _files(truth)], sets)
    return {"metrics": {"pred_to_truth": rows}, "baselines": {}, "verdict": {}}


def _pair_rows(pairs: list[tuple[Path, Path]], parts: list[Part]) -> dict[str, Any]:
    images = [(read(p), read(t)) for p, t in pairs]
    for (p, _), (one, other) in zip(pairs, images, strict=True):
        if one.pixels.shape != other.pixels.shape:
            shapes = f"{list(one.pixels.shape)} and {list(other.pixels.shape)}"
            raise UserError(
                f"'{p.name}' has another size than its truth: {shapes}", remedy="bring both to one grid first"
            )
    data_range = _range_of([other for _, other in images])
    rows = {}
    for part in parts:
        scorers = {dims: part(data_range, dims) for dims in {other.dims for _, other in images}}
        values = [
            float(scorers[t.dims](torch.from_numpy(p.pixels)[None], torch.from_numpy(t.pixels)[None]))
            for p, t in images
        ]
        rows[part.name] = report(next(iter(scorers.values())), np.array(values), [""] * len(values))
    return rows


def _set_rows(folders: list[list[Path]], parts: list[Part]) -> dict[str, Any]:
    fakes, truths = ([read(path) for path in paths] for paths in folders)
    shapes = {image.pixels.shape for image in [*fakes, *truths]}
    if len(shapes) > 1:
        found = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
        raise UserError(f"sets of images are compared at one size, and these have {found}", remedy="resize them first")
    data_range = _range_of(truths)
    kinds = {np.dtype(image.dtype).kind for image in truths if image.dtype is not None}
    black = 0.0 if kinds == {"u"} else min(float(image.pixels.min()) for image in truths)
    fake, real = (
        ImageGroup(torch.stack([torch.from_numpy(i.pixels) for i in images]) - black, [""] * len(images))
        for images in (fakes, truths)
    )
    rows = {}
    for part in parts:
        metric = part(data_range, truths[0].dims)
        rows |= {name: score_row(metric, score) for name, score in scores_of(metric, real, real, fake).items()}
    return rows


def _files(folder: Path) -> list[Path]:
    found = [folder] if folder.is_file() else list_images(folder, recursive=True)
    if not found:
        raise UserError(f"no images in the folder '{folder}'", remedy="name folders that hold PNG, TIFF or NIfTI files")
    return found


def _matched(predicted: Path, truth: Path) -> list[tuple[Path, Path]]:
    """Files with the same name up to the suffix; UserError that lists what stands on one side only."""
    if predicted.is_file() and truth.is_file():
        return [(predicted, truth)]
    sides = [{stem_of(path): path for path in _files(folder)} for folder in (predicted, truth)]
    lonely = [sorted(sides[i].keys() - sides[1 - i].keys()) for i in (0, 1)]
    if any(lonely):
        lists = [f"only in {f}: {', '.join(x[:5])}" for f, x in zip((predicted, truth), lonely, strict=True) if x]
        what = f"the two folders do not hold the same names; {'; '.join(lists)}"
        raise UserError(what, where="--pred, --truth", remedy="name each image like its truth")
    return [(path, sides[1][stem]) for stem, path in sides[0].items()]


def _range_of(truths: list[Any]) -> float:
    dtypes = {np.dtype(image.dtype) for image in truths if image.dtype is not None}
    if dtypes and all(dtype in (np.uint8, np.uint16) for dtype in dtypes):
        return float(max(np.iinfo(dtype).max for dtype in dtypes))
    low, high = min(float(i.pixels.min()) for i in truths), max(float(i.pixels.max()) for i in truths)
    if high <= low:
        raise UserError(f"the truth is constant ({low:g}) throughout, so no score is defined")
    return high - low
