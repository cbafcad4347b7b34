"""Scoring on held-out images: the model, the trivial baselines beside it, and how sure each number is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.data.batches import prepare
from gantk.data.prepared import Data
from gantk.data.records import Record
from gantk.method import Method
from gantk.metrics.baselines import HistogramMatching, IntensityMap, identity, linearly_corrected
from gantk.metrics.bootstrap import estimate, probability_better
from gantk.runtime import Runtime
from gantk.tables import Model

VALIDATION = 16  # pairs that are scored while training
BASELINE_IMAGES = 64  # training images that histogram matching pools
OTHER = {"a": "b", "b": "a"}
VALIDATED = ("psnr", "ssim")  # what is scored while training


@dataclass
class Held:
    """Held-out images that are drawn again and again while training: (k, C, *size) by direction, such as "a_to_b"."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    truths: dict[str, Tensor] = field(default_factory=dict)
    noise: int = 0  # how many images to sample, for methods that start from noise

    def index(self, data: Data) -> dict[str, Any]:
        """What samples/index.json says of them."""
        names = dict(zip(data.letters, data.table.domains, strict=False))
        directions = {
            key: {"from": names[key[0]], "to": names[key[-1]], "count": len(images)}
            for key, images in self.inputs.items()
        }
        if self.noise:
            directions["image"] = {"from": None, "to": names.get("image", data.table.domains[0]), "count": self.noise}
        return {"directions": directions, "has_truth": bool(self.truths)}


@dataclass(frozen=True)
class Scores:
    """One candidate's values: metric -> one number per image, raw and after the best linear correction."""

    raw: dict[str, np.ndarray]
    corrected: dict[str, np.ndarray]
    patients: list[str]


class Scorer:
    """Scores a method on a recipe's held-out images, in network intensities."""

    def __init__(self, model: Model, data: Data, method: Method, runtime: Runtime):
        self.model, self.data, self.method, self.runtime = model, data, method, runtime
        self.low, high = data.range
        self.metrics = {part.name: part(high - self.low, model.data.dims) for part in model.evaluate.metrics}
        self.batch = model.translate.batch

    def held_out_samples(self) -> Held:
        """The images to draw while training: validation pairs, else test pairs, else held-out or training images."""
        count, directions = self.model.evaluate.samples, self.method.directions()
        if not directions:
            return Held(noise=count)
        held = Held()
        pairs = self.data.pairs("validation") or self.data.pairs("test")
        for to in directions:
            key = f"{OTHER[to]}_to_{to}"
            chosen = [pair[OTHER[to]] for pair in pairs] if pairs else self.data.unpaired(OTHER[to])
            chosen = _spread(chosen, count)
            held.inputs[key] = torch.stack([self._load(record) for record in chosen])
            if pairs:
                held.truths[key] = torch.stack([self._load(pair[to]) for pair in _spread(pairs, count)])
        return held

    def outputs(self, held: Held) -> dict[str, Tensor]:
        """What the method makes of them now."""
        if held.noise:
            return {"image": self.method.sample(held.noise, seed=0)}
        return {key: self._translate(images, key[-1]) for key, images in held.inputs.items()}

    def validate(self) -> dict[str, dict[str, float]]:
        """PSNR and SSIM by direction on validation pairs; empty where no truth is known."""
        found = {}
        for to, (sources, truths, patients) in self._validation.items():
            scores = self._scores(self._translate(sources, to), truths, patients, VALIDATED)
            means = {name: estimate(values, patients, draws=1).value for name, values in scores.raw.items()}
            found[f"{OTHER[to]}_to_{to}"] = {name: round(v, 4) for name, v in means.items() if v is not None}
        return {key: scores for key, scores in found.items() if scores}

    def test(self) -> dict[str, Any]:
        """All metrics and baselines on the test pairs, as metrics.json holds them."""
        result: dict[str, Any] = {"metrics": {}, "baselines": {}, "verdict": {}}
        pairs = self.data.pairs("test")
        for to in self.method.directions() if pairs else []:
            key = f"{OTHER[to]}_to_{to}"
            sources, truths, patients = self._tensors(pairs, to)
            model = self._scores(self._translate(sources, to), truths, patients)
            result["metrics"][key] = self._report(model)
            rivals = {}
            for name, baseline in self._baselines(to):
                rivals[name] = self._scores(baseline(sources), truths, patients)
                result["baselines"].setdefault(name, {})[key] = self._report(rivals[name])
            result["verdict"][key] = self._verdict(model, rivals)
        return result

    @cached_property
    def _validation(self) -> dict[str, tuple[Tensor, Tensor, list[str]]]:
        pairs = _spread(self.data.pairs("validation"), VALIDATION)
        return {to: self._tensors(pairs, to) for to in self.method.directions()} if pairs else {}

    def _tensors(self, pairs: list[dict[str, Record]], to: str) -> tuple[Tensor, Tensor, list[str]]:
        sources = torch.stack([self._load(pair[OTHER[to]]) for pair in pairs])
        return sources, torch.stack([self._load(pair[to]) for pair in pairs]), [pair[to].subject for pair in pairs]

    def _load(self, record: Record) -> Tensor:
        table = self.data.table
        return prepare(record.read(), self.data.intensity[record.domain], table.size, table.fit)

    def _translate(self, images: Tensor, to: str) -> Tensor:
        parts = []
        with torch.no_grad():
            for part in images.split(self.batch):
                with self.runtime.autocast():
                    done = self.method.translate(self.runtime.place(part, self.model.data.dims), to)
                parts.append(done.float().cpu())
        return torch.cat(parts)

    def _scores(self, output: Tensor, truth: Tensor, patients: list[str], names: tuple[str, ...] = ()) -> Scores:
        raw: dict[str, list] = {}
        corrected: dict[str, list] = {}
        for part, real in zip(output.split(self.batch), truth.split(self.batch), strict=True):
            # Metrics count from black: SSIM's luminance term means nothing where intensities change sign.
            part, real = part.to(self.runtime.device) - self.low, real.to(self.runtime.device) - self.low
            fitted = None if names else linearly_corrected(part, real)
            for name, metric in self.metrics.items():
                if not names or name in names:
                    raw.setdefault(name, []).append(metric(part, real).cpu())
                    if fitted is not None:
                        corrected.setdefault(name, []).append(metric(fitted, real).cpu())
        join = lambda values: {name: torch.cat(v).double().numpy() for name, v in values.items()}  # noqa: E731
        return Scores(join(raw), join(corrected), patients)

    def _report(self, scores: Scores) -> dict[str, Any]:
        return {name: report(self.metrics[name], values, scores.patients, scores.corrected.get(name))
                for name, values in scores.raw.items()}  # fmt: skip

    def _baselines(self, to: str) -> Iterator[tuple[str, Any]]:
        """The rivals that need no network; the intensity map is fitted where training pairs are known."""
        channels = self.data.channels[to]
        yield "identity", lambda sources: identity(sources, channels)
        pool = _spread([r for r in self.data.splits["train"] if r.domain == to], BASELINE_IMAGES)
        yield "histogram", HistogramMatching(self._load(record) for record in pool)
        pairs = _spread(self.data.pairs("train"), BASELINE_IMAGES)
        if pairs:
            yield "intensity_map", IntensityMap((self._load(p[OTHER[to]]), self._load(p[to])) for p in pairs)

    def _verdict(self, model: Scores, rivals: dict[str, Scores]) -> dict[str, Any]:
        """Per metric: the best baseline, whether the model's mean beats it, and how probable that is."""
        verdict = {}
        for name, values in model.raw.items():
            higher = self.metrics[name].higher_is_better
            means = {rival: estimate(s.raw[name], s.patients, draws=1).value for rival, s in rivals.items()}
            best = (max if higher else min)(means, key=means.get)
            mean = estimate(values, model.patients, draws=1).value
            p = probability_better(values, rivals[best].raw[name], model.patients, higher_is_better=higher)
            better = mean > means[best] if higher else mean < means[best]
            verdict[name] = {"better": bool(better), "best_baseline": best, "probability": p}
        return verdict


def report(metric: Any, values: np.ndarray, patients: list[str], corrected: np.ndarray | None = None) -> dict[str, Any]:
    """One number with all that belongs to it: interval, n, unit, definition, linearly corrected score."""
    found = estimate(values, patients)
    return {
        "value": found.value,
        "ci95": list(found.ci95) if found.ci95 else None,
        "n": found.n,
        "images": len(values),
        "unit": metric.unit,
        "definition": metric.definition,
        "higher_is_better": metric.higher_is_better,
        "corrected": estimate(corrected, patients, draws=1).value if corrected is not None else None,
    }


def alarms(outputs: dict[str, Tensor], held: Held) -> Iterator[tuple[str, str]]:
    """What should worry a user while training: a generator that changes nothing, or answers everything alike."""
    for key, images in outputs.items():
        images = images.float().cpu()
        inputs = held.inputs.get(key)
        spread = float((images - images.mean(0)).abs().mean())
        if inputs is not None and inputs.shape == images.shape and float((images - inputs).abs().mean()) < 0.01:
            yield "no-change", f"{key}: the output is the input, nearly unchanged"
        if len(images) > 1 and spread < 0.002:
            yield "collapse", f"{key}: the outputs are all alike"


def speed_of(log: list[dict[str, Any]]) -> dict[str, float | int]:
    """Images per second (median over log points), seconds of training, and steps, of log.jsonl."""
    lines = [line for line in log if "images_per_s" in line]
    if not lines:
        return {}
    speed = float(np.median([line["images_per_s"] for line in lines]))
    return {"images_per_s": round(speed, 2), "seconds": lines[-1]["seconds"], "steps": lines[-1]["step"]}


def summary_lines(result: dict[str, Any]) -> Iterator[str]:
    """The result in lines for a terminal: model, baselines, verdict."""
    if not result["metrics"]:
        yield "score    no held-out pairs are known, so nothing was scored against a truth"
    domains = result.get("domains", [])
    for key, metrics in result["metrics"].items():
        title = f"{domains[0]} -> {domains[1]}" if key == "a_to_b" and len(domains) > 1 else key
        title = f"{domains[1]} -> {domains[0]}" if key == "b_to_a" and len(domains) > 1 else title
        rows = {"model": metrics} | {name: rows[key] for name, rows in result["baselines"].items() if key in rows}
        for name, row in rows.items():
            cells = "   ".join(f"{metric} {_cell(score)}" for metric, score in row.items())
            yield f"score    {title:<10} {name:<14} {cells}"
        for metric, verdict in result["verdict"].get(key, {}).items():
            if not verdict["better"]:
                yield f"warning  {title}: the model does not beat {verdict['best_baseline']} in {metric}"


def _cell(score: dict[str, Any]) -> str:
    if score["value"] is None:
        return "-"
    digits = 2 if score["unit"] == "dB" else 3
    interval = f" [{score['ci95'][0]:.{digits}f}, {score['ci95'][1]:.{digits}f}]" if score["ci95"] else ""
    return f"{score['value']:.{digits}f}{' ' + score['unit'] if score['unit'] else ''}{interval} (n={score['n']})"


def _spread(items: list, count: int) -> list:
    """At most `count` items, evenly spread over the list."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]
