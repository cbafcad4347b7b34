"""Collects facts from a run's files as sentences, keyed as in items.toml, without names of patients
or files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import RootModel

from gantk.errors import argument
from gantk.files import sha256_of
from gantk.report.run_record import RunRecord
from gantk.runs.folder import Run, flat
from gantk.runs.models import card, limits_of, packed, split_hash
from gantk.runs.schemas import read, table
from gantk.terminal import duration

LIMITS = (
    "Research software, no medical device: not for diagnosis. A network invents what it has not"
    " seen."
)
STATISTICS = "means over patients with 95 % intervals (bootstrap, 2,000 draws of patients)"
TESTS = (
    "two-sided sign-flip tests over patients against the best baseline, corrected for all"
    " comparisons by Holm"
)
MISSING = {
    "refuse": "images that lack a contrast are refused",
    "mask": "training does without contrasts that lack",
}
TRAINED = (
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
SHOWN = ("dims", "size", "fit", "plane", "spacing", "patch", "neighbours", "intensity")
MACHINE = ("cpu", "device", "threads", "ranks", "platform", "cuda", "driver")
PATIENTS = RootModel[
    dict[str, table("patients", patients=list[table("scores", scores=dict[str, float | None])])]
]


def facts_of(record: RunRecord) -> dict[str, str]:
    """Fact -> sentence, for all facts that the run's files contain."""
    saved = any((record.path / "checkpoints").glob("step-*"))
    packing = (packed(Run(record.path)) if saved else None) or {}
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
            inner = [
                f"{name} {each}"
                for name, each in flat(value)
                if name != "name" and each not in (None, [], "")
            ]
            value = " ".join(
                filter(None, [value.get("name"), f"({', '.join(inner)})" * bool(inner)])
            )
        if value not in (None, [], {}, ""):
            texts.append(f"{key} {value}")
    return ", ".join(texts)


def _without_paths(value: Any) -> Any:
    """Remove folders and tables of files from a source's options: they may name patients."""
    if isinstance(value, dict):
        return {
            k: Path(str(v)).name if k == "path" else _without_paths(v)
            for k, v in value.items()
            if k != "table"
        }
    return [_without_paths(each) for each in value] if isinstance(value, list) else value


def _join(*parts: str | None) -> str:
    return "; ".join(filter(None, parts))


def _data(run: RunRecord, noted: Mapping[str, Any]) -> dict[str, Any]:
    data = run.recipe.get("data") or {}
    sets = run.split.get("splits") or {}
    counts = []
    for name in ("train", "validation", "test", "set_aside", "left_out"):
        if images := sets.get(name):
            people = {
                image["subject"]
                for image in images
                if isinstance(image, dict) and image.get("subject")
            }
            counts.append(
                f"{name.replace('_', ' ')}: {len(people) or 'unknown'} patients, {len(images)}"
                " images"
            )
    source = _without_paths(data.get("source") or {})
    leaks = "patients on both sides of the split were allowed" * bool(
        run.split.get("leakage_allowed")
    )
    split = split_hash(run.split) if sets else noted.get("split")
    ways = [run.label(key) for key in run.metrics.get("metrics") or ()]
    task = f"made: {', '.join(ways)}" if ways else f"images of {', '.join(run.domains)}"
    return {
        "source": _options({"source": source}, ["source"]) if source else "",
        "licence": " ".join(
            card(run.path).partition("\n## Data and licences\n")[2].partition("\n## ")[0].split()
        ),
        "counts": _join(*counts),
        "preprocessing": _options(data, SHOWN),
        "missing": MISSING.get(data.get("missing")),
        "augmentation": data and (_options(data, ["augment"]) or "no augmentation"),
        "split": _join(run.split.get("how"), f"seed {sets['seed']}" if "seed" in sets else ""),
        "disjoint": (
            _join(f"by {sets['by']}", leaks, *(sets.get("consequences") or []))
            if sets.get("by")
            else ""
        ),
        "hashes": _join(split and f"split sha256 {split}", *_weights(Run(run.path))),
        "task": run.domains and task,
    }


def _weights(run: Run) -> Iterator[str]:
    """Yield a line with the hash of the weights used for inference; nothing where none are saved."""
    if any(run.checkpoints.glob("step-*")):
        chosen = run.chosen()
        yield f"weights of {chosen.name} sha256 {sha256_of(chosen / 'weights.safetensors')}"


def _training(run: RunRecord, noted: Mapping[str, Any]) -> dict[str, Any]:
    method = run.recipe.get("method") or {}
    train = run.recipe.get("train") or {}
    about = run.environment
    speed = run.metrics.get("speed") or {}
    best = (run.recipe.get("evaluate") or {}).get("checkpoint") == "best"
    if speed.get("seconds"):
        spent = f"{speed.get('steps')} steps in {duration(speed['seconds'])}"
    else:
        spent = ""
    if speed.get("peak_memory_gib"):
        memory = f"peak memory {speed['peak_memory_gib']:.2f} GiB"
    else:
        memory = ""
    packages = [
        f"{name} {version}" for name, version in (about.get("packages") or {}).items() if version
    ]
    version = about.get("gantk") or noted.get("gantk")
    python = about.get("python")
    start = Path(train["start"]).name if train.get("start") else ""
    return {
        "technique": (
            method
            and f"deep learning, method '{method.get('name')}': {run.recipe.get('summary') or ''}"
        ),
        "model": _options({"method": method}, ["method"]) if method else "",
        "training": _options(train, TRAINED),
        "start": (
            train
            and (f"the weights of {start}" if start else f"drawn from the seed {train.get('seed')}")
        ),
        "hardware": _join(_options(about, MACHINE), spent, memory),
        "software": _join(
            version and f"gantk {version}", python and f"Python {python}", ", ".join(packages)
        ),
        "chosen": f"the best save by {run.best.get('rule')}" if best else train and "the last save",
        "ensemble": (
            train
            and (
                "one network, a moving average of its weights"
                if train.get("ema")
                else "one network"
            )
        ),
        "reproduce": about and "recipe.toml of the run holds every setting",
    }


def _evaluation(run: RunRecord) -> dict[str, Any]:
    found = run.metrics
    results = []
    definitions = {}
    tests = []
    power = []
    not_beaten = []
    groups = []
    for key, rows in (found.get("metrics") or {}).items():
        for name, row in rows.items():
            definitions[f"{name}: {row.get('definition')}"] = row
            if None not in (row.get("ci95") or [None]):
                ends = " [{:.4g}, {:.4g}]".format(*row["ci95"])
            else:
                ends = ""
            if row.get("value") is not None:
                results.append(
                    f"{run.label(key)} {name} {row['value']:.4g}{ends} (n={row.get('n')})"
                )
            judged = ((found.get("verdict") or {}).get(key) or {}).get(name) or {}
            not_beaten += [f"{name} {run.label(key)}"] if judged.get("better") is False else []
            if test := judged.get("test"):
                p = (
                    f"p {test['p']:.2g}, Holm {test.get('holm', 1):.2g} of {test.get('of')}"
                    f" comparisons, n={test['n']}"
                )
                tests.append(f"{run.label(key)} {name} difference {test['gain']:.3g}, {p}")
                power += (
                    [f"{run.label(key)} {name}: {test['needed']} patients"]
                    if test.get("needed")
                    else []
                )
    for key, columns in (found.get("subgroups") or {}).items():
        for column, (name, row) in (
            (column, each) for column, rows in columns.items() for each in rows.items()
        ):
            of = [
                f"{group} {one['value']:.4g} (n={one['n']})"
                for group, one in row["groups"].items()
                if one["n"]
            ]
            groups.append(f"{run.label(key)} {name} by {column}: {', '.join(of)}")
    alarms = dict.fromkeys(
        [*(each.get("message") for each in run.log.alarms), *(found.get("alarms") or {}).values()]
    )
    pairs = any(row.get("per") for row in definitions.values())
    patients = max((row.get("n") or 0 for row in definitions.values()), default=0)
    beaten = f" The best baseline is not beaten in {', '.join(not_beaten)}." if not_beaten else ""
    return {
        "reference": "the registered true image of the same patient" if pairs else "",
        "internal": (
            f"{patients} held-out patients of the source of the training data" if patients else ""
        ),
        "metrics": _join(*definitions),
        "baselines": ", ".join(found.get("baselines") or []),
        "statistics": _join(STATISTICS if results else "", TESTS if tests else ""),
        "results": _join(*results),
        "tests": _join(*tests),
        "power": (
            _join(*power)
            and f"for 80 % power, were the true effect the one that was seen: {_join(*power)}"
        ),
        "subgroups": _join(*groups),
        "failures": _join(*_worst(run), *alarms),
        "limits": (limits_of(run.path) or LIMITS) + beaten,
    }


def _worst(run: RunRecord) -> Iterator[str]:
    """Yield one line per direction: the worst patient's score and the median, without the patient's
    name.
    """
    found = read(
        run.path / "patients.json", PATIENTS, f"gantk eval {argument(run.path)} writes it again"
    )
    for key, direction in found.items():
        scores = [
            next(iter(row["scores"].items())) for row in direction["patients"] if row["scores"]
        ]
        if values := [value for _, value in scores if value is not None]:
            of = f"the worst of {len(values)} patients has {scores[0][0]} {values[0]:.4g}"
            yield f"{run.label(key)}: {of}, the median is {median(values):.4g}"
