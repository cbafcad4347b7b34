"""What scoring costs on the device: pair metrics beside a translation, feature vectors beside the bare network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gantk.metrics.features import INCEPTION_FILE, Features
from gantk.nets.pretrained import VARIABLE
from gantk.plugin.spec import bind_or_raise
from gantk.training.loop import inference_weights
from gpu import cases, timing
from gpu.rows import row
from gpu.steps import TINY, Subject

EFFORT = {"seconds": 1.0, "least": 5, "most": 30}
METRICS = ("psnr", "ssim")
SPAN = 2.0  # the data range of network intensities


def measure(task: dict[str, Any], device: torch.device) -> Iterator[dict[str, Any]]:
    """One row."""
    effort = TINY if task["tiny"] else EFFORT
    yield (_metrics if task["what"] == "psnr and ssim" else _features)(task, device, effort)


def _metrics(task: dict[str, Any], device: torch.device, effort: dict[str, Any]) -> dict[str, Any]:
    """PSNR and SSIM of a batch beside the generator's pass that made it."""
    case, (side, count) = cases.all_cases()[0], (32, 2) if task["tiny"] else (256, 16)
    settings = [f"data.size={[side] * 2}", *case.settings, *(case.tiny if task["tiny"] else ())]
    subject = Subject.build(case.recipe, settings, count, "auto", str(device))
    metrics = [bind_or_raise("metric", name)(SPAN, 2) for name in METRICS]
    source, truth = subject.batch["a"], subject.batch["b"]
    with inference_weights(subject.engine.method, subject.engine):

        def translate() -> Tensor:
            with subject.engine.runtime.autocast():
                return subject.engine.method.translate(source, "b")

        made = translate().float()
        beside = _median(translate, device, effort)
        found = _samples(lambda: [metric(made + 1, truth + 1) for metric in metrics], device, effort)
    values = timing.summary(found)
    about = {"what": task["what"], "beside": f"a translation by {case.recipe}'s generator", "batch": count}
    about |= {"size": [side, side], "precision": subject.engine.runtime.precision, "beside_s": beside}
    return row("cost", **about, **values, images_per_s=count / values["median_s"], ratio=values["median_s"] / beside)


def _features(task: dict[str, Any], device: torch.device, effort: dict[str, Any]) -> dict[str, Any]:
    """Gray images to the vectors of a Frechet distance, beside pytorch-fid's network on colour images at hand."""
    side, count = (64, 1) if task["tiny"] else (256, 128)
    with random_inception() as bare:
        features = Features("inception", SPAN, 2)
    bare.to(device).eval().requires_grad_(False)
    gray = torch.rand(count, 1, side, side, device=device) * SPAN
    colour = (gray / SPAN).expand(-1, 3, -1, -1).contiguous()
    batch = count if task["tiny"] else 32

    def network() -> None:
        with torch.no_grad():
            for part in colour.split(batch):
                bare(part)[0].flatten(1)

    beside = _median(network, device, effort)
    values = timing.summary(_samples(lambda: features(gray), device, effort))
    about = {"what": task["what"], "beside": "pytorch-fid's network alone, random weights", "batch": count}
    about |= {"size": [side, side], "precision": "fp32", "beside_s": beside}
    return row("cost", **about, **values, images_per_s=count / values["median_s"], ratio=beside / values["median_s"])


@contextmanager
def random_inception() -> Iterator[torch.nn.Module]:
    """pytorch-fid's network with seeded weights; inside, gantk finds the same weights in the place of the real ones."""
    from pytorch_fid import inception

    loads, build, before = inception.load_state_dict_from_url, inception._inception_v3, os.environ.get(VARIABLE)

    def bare(*args: Any, **options: Any) -> torch.nn.Module:
        network = build(*args, **options)
        network.load_state_dict = lambda state: None  # there are none to load
        return network

    inception.load_state_dict_from_url, inception._inception_v3 = (lambda *_, **__: {}), bare
    try:
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
            torch.default_generator.manual_seed(0)
            torch.save(inception.fid_inception_v3().state_dict(), Path(folder) / INCEPTION_FILE)
            network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
            inception.load_state_dict_from_url, inception._inception_v3 = loads, build
            os.environ[VARIABLE] = folder
            yield network
    finally:
        inception.load_state_dict_from_url, inception._inception_v3 = loads, build
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def _samples(work: Callable[[], Any], device: torch.device, effort: dict[str, Any]) -> list[float]:
    work()
    work()
    return timing.samples(work, device, **effort)


def _median(work: Callable[[], Any], device: torch.device, effort: dict[str, Any]) -> float:
    return timing.summary(_samples(work, device, effort))["median_s"]
