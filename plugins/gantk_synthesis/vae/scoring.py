"""Adds scores and pictures of a VAE's reconstructions of test images to a run."""

from __future__ import annotations

from pathlib import Path

import torch

from gantk.metrics.evaluate import MAX_BASELINE_IMAGES, Scorer
from gantk.metrics.pair_scores import PairScorer, References, score_pairs
from gantk.metrics.pairs import MAE, PSNR, SSIM
from gantk.metrics.references import number_that_fits, spread
from gantk.runs.folder import RunFolder
from gantk.runs.results import Results

MAX_SCORED_IMAGES = 256
MAX_SCORED_BYTES = 2**29
SHOWN_IMAGES = 8


def add_reconstructions(run: Path, scorer: Scorer, results: Results) -> None:
    """Add the row `reconstruction` (PSNR, SSIM, MAE) and its baseline, the mean of training images,
    to the results.

    Writes samples/reconstructions/test.png: test images above, their reconstructions below.
    """
    data = scorer.data
    method = scorer.method
    low, high = data.range
    count = number_that_fits(MAX_SCORED_IMAGES, MAX_SCORED_BYTES, data.table.size)
    records = spread(scorer.reals.records("test", "image"), count)
    if not records:
        return

    images = scorer.reals.network_inputs(records)
    made = []
    with torch.no_grad(), scorer.runtime.autocast():
        for part in images.split(scorer.batch):
            placed = scorer.runtime.place(part, data.table.dims)
            made.append(method.reconstruct(placed).float().cpu())

    truth = data.centre(images)
    output = data.centre(torch.cat(made))
    count = number_that_fits(MAX_BASELINE_IMAGES, MAX_SCORED_BYTES, data.table.size)
    others = scorer.reals.scored_images(spread(scorer.reals.records("train", "image"), count))
    mean = others.mean(0, keepdim=True).expand_as(truth)
    metrics = [metric(high - low, data.table.dims) for metric in (PSNR, SSIM, MAE)]
    pairs = PairScorer(
        metrics, low, high - low, data.table.dims, scorer.batch, scorer.runtime.device, ["whole"]
    )
    references = References(
        truth, [record.subject for record in records], names=[record.key for record in records]
    )
    key = "reconstruction"
    score_pairs(results, key, pairs, {key: output}, {"mean_image": mean}, references)
    rows = [torch.cat(spread(list(each), SHOWN_IMAGES), -1) for each in (truth, output)]
    RunFolder(run).write_picture("reconstructions", "test", torch.cat(rows, -2).numpy(), low, high)
