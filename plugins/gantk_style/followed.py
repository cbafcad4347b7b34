"""Scores whether translations show the tumour of their own example; a classifier would accept any
other tumour too.
"""

from __future__ import annotations

import torch

from gantk.losses.structure import dilate
from gantk.metrics.evaluate import Scorer
from gantk.metrics.intervals import estimate, metric_score
from gantk.metrics.pairs import MAE, SSIM
from gantk.runs.results import Results

EDGE_PIXELS = 2  # pixels by which a tumour's mask is dilated, to include its edge
AIR_SHARE = 0.1  # share of the intensity range below which a pixel is air, where no tumour can be


def add_scores(results: Results, scorer: Scorer) -> None:
    """Translate each test image with another test image as its example and add two scores, where
    masks are known:

    "example_mae", the mean absolute difference between translation and example inside the example's
    tumour where the image has tissue (with that of the untranslated image in its details), and
    "example_ssim", the SSIM between translation and image outside the tumour.
    """
    plain = scorer.reals.records("test", "a")
    examples = scorer.reals.records("test", "b")
    count = min(len(plain), len(examples))
    masks = scorer.reals.masks_of(examples[:count]) if count else None
    if masks is None or "a_to_b" not in results.metrics:
        return

    x = scorer.reals.network_inputs(plain[:count])
    y = scorer.reals.network_inputs(examples[:count])
    made = []
    device = scorer.runtime.device
    with torch.no_grad(), scorer.runtime.autocast():
        for image, example in zip(x.split(scorer.batch), y.split(scorer.batch), strict=True):
            output = scorer.method.translate_like(image.to(device), "b", example.to(device))
            made.append(output.float().cpu())

    made = torch.cat(made)
    tumour = masks.nan_to_num(0.0)
    patients = [record.subject for record in plain[:count]]
    inside = tumour * (x.mean(1, keepdim=True) > scorer.low + AIR_SHARE * scorer.span)
    outside = 1 - dilate(tumour, EDGE_PIXELS)
    scores = results.metrics["a_to_b"]
    images = f"with-examples={count}"
    for metric, truth, region, where in (
        (MAE, y, inside, "inside-its-tumour"),
        (SSIM, x, outside, "outside-of-it"),
    ):
        score = metric(scorer.span, scorer.dims)
        found = estimate(score(made, truth, region).tolist(), patients)
        before = estimate(score(x, truth, region).tolist(), patients)
        definition = f"{score.in_mask}/{where}/{images}"
        details = {"details": {"inputs": before}}
        own = metric_score(score, found, count, definition).model_copy(update=details)
        scores[f"example_{score.name}"] = own
