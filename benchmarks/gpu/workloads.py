"""A short training with its scores, and what scoring costs on the device."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from harness import samples, summary
from recipe_step import RecipeStep
from torch import Tensor, nn

from gantk import api
from gantk.metrics import features
from gantk.plugin.spec import bind_or_raise
from gantk.training.loop import inference_weights
from gpu import tasks
from gpu.rows import Row, row

SPAN = 2.0  # the data range of network intensities


def training(task: dict[str, Any], device: str) -> Iterator[Row]:
    """One row: `gantk run` on the phantom in a temporary folder, then the same step without its data."""
    from gpu.measure import memory_watched

    about = {"recipe": task["recipe"], "settings": task["settings"], "steps": task["steps"]}
    quiet = contextlib.redirect_stdout(io.StringIO())
    with memory_watched(device) as peak, tempfile.TemporaryDirectory(prefix="gantk-gpu-") as folder, quiet:
        began = time.perf_counter()
        run = api.run(task["recipe"], set=task["settings"], out=Path(folder) / "run", device=device, say=lambda _: None)
        wall = time.perf_counter() - began
        result, log, most = json.loads((run.path / "metrics.json").read_text()), run.read_log(), peak()
    subject = RecipeStep.build(task["recipe"], task["settings"], device)
    for _ in range(subject.settling):
        subject()
    alone, step = _median(subject, subject.device, task["tiny"]), step_seconds(log)
    yield row(
        "training",
        **about,
        size=subject.model.data.size,
        batch=subject.model.train.batch,
        precision=subject.engine.runtime.precision,
        seconds=result["speed"]["seconds"],
        images_per_s=result["speed"]["images_per_s"],
        wall_s=wall,
        step_s=step,
        compute_step_s=alone,
        compute_share=alone / step if step else None,
        peak_memory_gib=most,
        metrics=_values(result["metrics"]),
        baselines={name: _values(rows) for name, rows in result["baselines"].items()},
        verdict=result["verdict"],
        alarms=[line["message"] for line in log if "alarm" in line],
    )


def step_seconds(log: list[dict[str, Any]]) -> float | None:
    """Seconds per step of the last stage: the median over its log intervals; None where it was logged once only."""
    lines = [line for line in log if "losses" in line]
    pairs = [(a, b) for a, b in zip(lines, lines[1:], strict=False) if a["stage"] == b["stage"] == lines[-1]["stage"]]
    found = [(b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in pairs]
    return statistics.median(found) if found else None


def _values(directions: dict[str, Any]) -> dict[str, dict[str, float]]:
    """direction -> metric -> value, whole images alone."""
    plain = ("psnr", "ssim", "mae")
    return {key: {n: scores[n]["value"] for n in plain if n in scores} for key, scores in directions.items()}


def cost(task: dict[str, Any], device: str) -> Iterator[Row]:
    """One row: pair metrics beside the translation that they score, or feature vectors beside the bare network."""
    what, place, tiny = task["what"], torch.device(device), task["tiny"]
    side, count = (32, 2) if tiny else (256, 16)
    if what == "psnr and ssim":
        cell = {"dims": 2, "sides": [side], "batches": [count], "precisions": ["auto"], "modes": ["captured"]}
        step = next(tasks.cells(cell, tasks.tables()["case"][:1], tiny))
        subject = RecipeStep.build(step["recipe"], [*step["settings"], f"train.batch={count}"], device)
        metrics = [bind_or_raise("metric", name)(SPAN, 2) for name in ("psnr", "ssim")]
        source, truth = subject.batch["a"], subject.batch["b"]
        with inference_weights(subject.engine.method, subject.engine):

            def translate() -> Tensor:
                with subject.engine.runtime.autocast():
                    return subject.engine.method.translate(source, "b")

            made = translate().float()
            beside = _median(translate, place, tiny)
            found = _summary(lambda: [metric(made + 1, truth + 1) for metric in metrics], place, tiny)
        precision, name = subject.engine.runtime.precision, f"a translation by {step['recipe']}'s generator"
        ratio = found["median_s"] / beside
    else:
        side, count = (64, 1) if tiny else (256, 128)
        bare, ours = inception(place)
        gray = torch.rand(count, 1, side, side, device=place) * SPAN
        colour = (gray / SPAN).expand(-1, 3, -1, -1).contiguous()

        def network() -> None:
            with torch.no_grad():
                for part in colour.split(32):
                    bare(part)[0].flatten(1)

        beside, found = _median(network, place, tiny), _summary(lambda: ours(gray), place, tiny)
        precision, name, ratio = "fp32", "pytorch-fid's network alone, random weights", beside / found["median_s"]
    about = {"what": what, "beside": name, "batch": count, "size": [side, side], "precision": precision}
    yield row("cost", **about, **found, beside_s=beside, images_per_s=count / found["median_s"], ratio=ratio)


def inception(device: torch.device) -> tuple[nn.Module, features.Features]:
    """pytorch-fid's network with weights drawn at random, and gantk's features of the same network.

    How long a product takes does not depend on its numbers, so that no file of weights is needed.
    """
    from pytorch_fid import inception as fid

    fetch, load, known = fid.load_state_dict_from_url, nn.Module.load_state_dict, features.inception_network
    fid.load_state_dict_from_url, nn.Module.load_state_dict = lambda *_, **__: {}, lambda self, state: None
    try:
        bare = fid.InceptionV3([fid.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval().requires_grad_(False)
        features.inception_network = lambda: copy.deepcopy(bare)
        ours = features.Features("inception", SPAN, 2)
    finally:
        fid.load_state_dict_from_url, nn.Module.load_state_dict, features.inception_network = fetch, load, known
    return bare.to(device), ours


def _summary(work: Callable[[], Any], device: torch.device, tiny: bool) -> dict[str, Any]:
    """Samples of a call after two that are not timed."""
    work()
    work()
    effort = {"seconds": 0.0, "least": 2, "most": 2} if tiny else {"seconds": 1.0, "least": 5, "most": 30}
    return summary(samples(work, device, **effort))


def _median(work: Callable[[], Any], device: torch.device, tiny: bool) -> float:
    return _summary(work, device, tiny)["median_s"]
