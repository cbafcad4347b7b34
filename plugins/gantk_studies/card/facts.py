"""Collects facts from a run's files as sentences, keyed as in items.toml, without names of patients
or files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from gantk import RunRecord
from gantk.errors import count_noun
from gantk.files import sha256_of
from gantk.metrics.names import baseline_words, short_metric_name
from gantk.metrics.rows import ScoreRow, patients_are_known, score_rows
from gantk.metrics.verdict import every_p_words
from gantk.runs.folder import RunFolder, flat
from gantk.runs.models import card, limits_of, pack_record, split_hash
from gantk.runs.results import Score, Speed
from gantk.runs.schemas import Environment, Packing
from gantk.terminal import duration

LIMITS = (
    "Research software, not a medical device, and not for diagnosis. A network invents what it has"
    " not seen."
)
STATISTICS = "means over patients with 95 % intervals (bootstrap, 2,000 draws of patients)"
TESTS = "two-sided sign-flip tests over patients against the best baseline, corrected by Holm"
MISSING = {
    "refuse": "patients with a missing contrast are refused",
    "mask": "the model is trained to work with missing contrasts",
}
TRAINING_OPTIONS = (
    "steps",
    "epochs",
    "batch",
    "optimizer",
    "optimizers",
    "schedule",
    "precision",
    "ema",
    "patience",
    "seed",
)
DATA_OPTIONS = ("dims", "size", "fit", "plane", "spacing", "patch", "neighbours", "intensity")
MACHINE = ("cpu", "device", "threads", "ranks", "platform", "cuda", "driver")


def facts_of(record: RunRecord) -> dict[str, str]:
    """Fact -> sentence, for all facts that the run's files contain."""
    saved = any((record.path / "checkpoints").glob("step-*"))
    packing = pack_record(RunFolder(record.path)) if saved else None
    facts = _data(record, packing) | _training(record, packing) | _evaluation(record)
    return {name: text for name, text in facts.items() if text}


def _options(table: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Format keys of a recipe's table as `batch 4, optimizer adam (lr 0.0002)`; keys without a
    value are left out.
    """
    texts = []
    for key in keys:
        value = table.get(key)
        if isinstance(value, Mapping):
            value = _nested_options(value)
        if value not in (None, [], {}, ""):
            texts.append(f"{key} {value}")

    return ", ".join(texts)


def _nested_options(table: Mapping[str, Any]) -> str:
    """Format a table inside a recipe's table as `adam (lr 0.0002)`: its name, then all else."""
    inner = []
    for name, value in flat(table):
        if name != "name" and value not in (None, [], ""):
            inner.append(f"{name} {value}")

    words = []
    if table.get("name"):
        words.append(table["name"])
    if inner:
        words.append(f"({', '.join(inner)})")
    return " ".join(words)


def _without_paths(value: Any) -> Any:
    """Remove folders and tables of files from a source's options: they may name patients."""
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    if not isinstance(value, dict):
        return value

    kept = {}
    for key, each in value.items():
        if key == "path":
            kept[key] = Path(str(each)).name
        elif key != "table":
            kept[key] = _without_paths(each)

    return kept


def _join(*parts: str | None) -> str:
    return "; ".join(filter(None, parts))


def _data(run: RunRecord, noted: Packing | None) -> dict[str, str | None]:
    data = run.recipe.data.dump()
    sets = run.sets
    source = _without_paths(data.get("source") or {})
    _, _, licences = card(run.path).partition("\n## Data and licences\n")
    augmentation = ""
    if data:
        augmentation = _options(data, ["augment"]) or "no augmentation"

    seed = (sets and sets.model_extra or {}).get("seed")
    split = split_hash(sets) if sets else noted and noted.split
    split_line = f"split sha256 {split}" if split else ""
    return {
        "source": _options({"source": source}, ["source"]),
        "licence": " ".join(licences.partition("\n## ")[0].split()),
        "counts": _join(*_counts(run)),
        "preprocessing": _options(data, DATA_OPTIONS),
        "missing": MISSING.get(data.get("missing")),
        "augmentation": augmentation,
        "split": _join(run.split and run.split.how, "" if seed is None else f"seed {seed}"),
        "disjoint": _disjoint(run),
        "hashes": _join(split_line, *_weights(RunFolder(run.path))),
        "task": _task(run),
    }


def _task(run: RunRecord) -> str:
    """The directions that are translated, or else the domains."""
    if not run.domains:
        return ""
    directions = [_label(run, key) for key in run.results.metrics]
    if directions:
        return f"translation: {', '.join(directions)}"
    return f"images of {', '.join(run.domains)}"


def _disjoint(run: RunRecord) -> str:
    """By what the sets of a split are disjoint, and what was allowed or follows."""
    split = run.split
    if split is None or not split.splits.by:
        return ""
    leaks = ""
    if split.leakage_allowed:
        leaks = "patients on both sides of the split were allowed (--allow-leakage)"
    return _join(f"by {split.splits.by}", leaks, *(split.splits.consequences or []))


def _counts(run: RunRecord) -> Iterator[str]:
    """Yield the numbers of patients and images of each set."""
    sets = run.sets
    if sets is None:
        return
    for name, images in sets.named().items():
        if images:
            people = {image.subject for image in images} - {"", None}
            patients = count_noun(people, "patient") if people else "unknown patients"
            yield f"{name.replace('_', ' ')}: {patients}, {count_noun(images, 'image')}"
    if sets.left_out:
        yield f"left out: unknown patients, {count_noun(sets.left_out, 'image')}"


def _weights(run: RunFolder) -> Iterator[str]:
    """Yield a line with the hash of the weights used for inference, if any are saved."""
    if any(run.checkpoints.glob("step-*")):
        chosen = run.inference_checkpoint()
        yield f"weights of {chosen.name} sha256 {sha256_of(chosen / 'weights.safetensors')}"


def _training(run: RunRecord, noted: Packing | None) -> dict[str, str | None]:
    method = run.recipe.method.dump()
    train = run.recipe.train.dump()
    about = run.environment
    facts = {
        "hardware": _join(_options(about.dump(), MACHINE), *_cost(run.results.speed or Speed())),
        "software": _join(*_software(about, noted)),
        "reproduce": "recipe.toml of the run contains every setting" if about.gantk else "",
    }
    if method:
        summary = run.summary(with_paths=False)
        facts["technique"] = f"deep learning, method '{run.recipe.method.name}': {summary}"
        facts["model"] = _options({"method": method}, ["method"])

    if train:
        facts["training"] = _options(train, TRAINING_OPTIONS)
        if run.recipe.train.start:
            facts["start"] = f"the weights of {Path(run.recipe.train.start).name}"
        else:
            facts["start"] = f"random, from the seed {run.recipe.train.seed}"
        facts["ensemble"] = "one network"
        if run.recipe.train.ema:
            facts["ensemble"] += ", a moving average of its weights"

    if run.recipe.evaluate.checkpoint == "best":
        facts["chosen"] = f"the best checkpoint by {run.best.rule}"
    elif train:
        facts["chosen"] = "the last checkpoint"

    return facts


def _cost(speed: Speed) -> Iterator[str]:
    """Yield the time and the memory that a training took."""
    if speed.seconds:
        steps = count_noun(speed.steps or 0, "step")
        yield f"{steps} in {duration(speed.seconds)}"
    if speed.peak_memory_gib:
        yield f"peak memory {speed.peak_memory_gib:.2f} GiB"


def _software(about: Environment, noted: Packing | None) -> Iterator[str]:
    """Yield the versions of gantk, Python and the packages."""
    version = about.gantk or (noted and noted.gantk)
    if version:
        yield f"gantk {version}"
    if about.python:
        yield f"Python {about.python}"
    yield ", ".join(f"{name} {version}" for name, version in about.packages.items() if version)


def _evaluation(run: RunRecord) -> dict[str, str | None]:
    rows = list(score_rows(run.results))
    results = _join(*(_result(run, row) for row in rows if row.score.value is not None))
    definitions = dict.fromkeys(f"{row.metric}: {row.score.definition}" for row in rows)
    reasons = [alarm.message for alarm in run.log.alarms]
    alarms = dict.fromkeys([*reasons, *run.results.alarms.values()])
    tested = [row for row in rows if row.verdict.test]
    facts = {
        "metrics": _join(*definitions),
        "baselines": ", ".join(baseline_words(name) for name in run.results.baselines),
        "statistics": _join(STATISTICS if results else "", TESTS if tested else ""),
        "results": results,
        "tests": _join(*(_test(run, row) for row in tested)),
        "failures": _join(*_worst(run), *alarms),
        "limits": limits_of(run.path) or LIMITS,
    }
    not_better = [f"{row.name} {_label(run, row.key)}" for row in rows if row.tone == "bad"]
    if not_better:
        facts["limits"] += f" The model does not beat the best baseline in {', '.join(not_better)}."

    facts |= _held_out([row.score for row in rows])
    return facts


def _held_out(scores: list[Score]) -> dict[str, str]:
    """Facts on the images that the scores are computed on."""
    facts = {}
    if any(score.corrected is not None for score in scores):
        facts["reference"] = "the registered true image of the same patient"

    if scores:
        largest = max(scores, key=lambda score: score.n or 0)
        facts["internal"] = f"{largest.held_out()} from the same source as the training data"
    return facts


def _label(run: RunRecord, key: str) -> str:
    """A direction in words, with plain spaces: `T1 → T2`."""
    return run.label(key).replace("\u00a0", " ")


def _test(run: RunRecord, row: ScoreRow) -> str:
    """The paired test of a score against the best baseline."""
    test = row.verdict.test
    p = f"{every_p_words(test)}; n={test.n}"
    size, sense = row.difference()
    return f"{_label(run, row.key)} {row.name} {size.text(row.score.decimals)} {sense}, {p}"


def _result(run: RunRecord, row: ScoreRow) -> str:
    """One score with its interval."""
    value = f"{row.score.text()} {row.score.interval()}".rstrip()
    return f"{_label(run, row.key)} {row.name} {value}, {row.score.sample()}"


def _worst(run: RunRecord) -> Iterator[str]:
    """Yield one line per direction: the score of the worst patient, or image of unknown patients, and
    the median, without names.
    """
    for key, direction in run.patients.items():
        metric, *_ = direction.metrics or [""]  # patients are ordered by their first score
        scores = [row.scores.get(metric) for row in direction.patients]
        values = [score for score in scores if score is not None]
        if values:
            unit = run.results.metrics.get(key, {}).get(metric, Score()).unit
            worst, middle = (Score(value=v, unit=unit).text() for v in (values[0], median(values)))
            noun = "patient" if patients_are_known(run.results) else "image"
            who = f"the worst of {count_noun(values, noun)} has {short_metric_name(metric)} {worst}"
            yield f"{_label(run, key)}: {who}, the median is {middle}"
