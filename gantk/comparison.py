"""Scoring files against files: any tool's output against the truth, no model needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.data.io import list_images, read, stem_of
from gantk.errors import UserError
from gantk.evaluation import report
from gantk.spec import Part, bind_or_raise


def compare_folders(predicted: Path, truth: Path, metrics: list[str]) -> dict[str, Any]:
    """Scores of files against files of the same name; the data range is the file type's, or the set's for floats."""
    pairs = _matched(predicted, truth)
    images = [(read(p), read(t)) for p, t in pairs]
    for (p, _), (one, other) in zip(pairs, images, strict=True):
        if one.pixels.shape != other.pixels.shape:
            shapes = f"{list(one.pixels.shape)} and {list(other.pixels.shape)}"
            raise UserError(
                f"'{p.name}' has another size than its truth: {shapes}", remedy="bring both to one grid first"
            )
    data_range = _range_of([other for _, other in images])
    result: dict[str, Any] = {"metrics": {"pred_to_truth": {}}, "baselines": {}, "verdict": {}}
    for name in metrics:
        part: Part = bind_or_raise("metric", name)
        scorers = {dims: part(data_range, dims) for dims in {other.dims for _, other in images}}
        values = [
            float(scorers[t.dims](torch.from_numpy(p.pixels)[None], torch.from_numpy(t.pixels)[None]))
            for p, t in images
        ]
        result["metrics"]["pred_to_truth"][name] = report(
            next(iter(scorers.values())), np.array(values), [""] * len(values)
        )
    return result


def _matched(predicted: Path, truth: Path) -> list[tuple[Path, Path]]:
    """Files with the same name up to the suffix; UserError that lists what stands on one side only."""
    if predicted.is_file() and truth.is_file():
        return [(predicted, truth)]
    sides = [{stem_of(path): path for path in list_images(folder, recursive=True)} for folder in (predicted, truth)]
    for folder, side in zip((predicted, truth), sides, strict=True):
        if not side:
            raise UserError(
                f"no images in the folder '{folder}'", remedy="name folders that hold PNG, TIFF or NIfTI files"
            )
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
