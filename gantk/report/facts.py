"""The words around the pictures: what ran, for how long, on what, with which split, and how to go on from it."""

from __future__ import annotations

import shlex
from pathlib import Path
from statistics import median
from typing import Any

from gantk.report.figures import number
from gantk.report.folder import RunRecord

SETS = ("train", "validation", "test")


def title(run: RunRecord) -> str:
    """`T1 ↔ T2`, `T1 → T2` where one direction is trained, `T1 from noise` where none is."""
    if run.samples and all(direction.source is None for direction in run.samples.directions):
        return " and ".join(direction.target for direction in run.samples.directions) + " from noise"
    scored = run.metrics.get("metrics") or {}
    keys = {direction.key for direction in run.samples.directions} if run.samples else set(scored)
    if len(keys) == 1:
        return run.label(keys.pop())
    return " ↔ ".join(run.domains) if run.domains else run.path.name


def method_name(run: RunRecord) -> str:
    method = run.recipe.get("method")
    return str(method.get("name", "")) if isinstance(method, dict) else ""


def total_steps(run: RunRecord) -> int | None:
    """The steps that the recipe asks for; None where it counts in epochs."""
    train = run.recipe.get("train")
    steps = train.get("steps") if isinstance(train, dict) else None
    return steps if isinstance(steps, int) else None


def facts(run: RunRecord) -> list[tuple[str, str]]:
    """The strip under the title: (name, value), absent things left out."""
    speed, env, total = run.metrics.get("speed") or {}, run.environment, total_steps(run)
    reached = speed.get("steps") or run.log.last_step
    rates = sorted(value for value in run.log.images_per_s.values() if value == value)
    rate = speed.get("images_per_s") or (rates[len(rates) // 2] if rates else None)
    seconds = speed.get("seconds") or run.log.seconds
    shortfall = f" of {total:,}" if total and reached and reached < total else ""
    facts = [
        ("Method", method_name(run)),
        ("Steps", f"{reached:,}{shortfall}" if reached else ""),
        ("Training time", duration(seconds) if seconds else ""),
        ("Speed", f"{number(rate, 3)} images/s" if rate else ""),
        *usage(speed),
        ("Best checkpoint", chosen_checkpoint(run)),
        ("Device", str(env.get("device") or "")),
        ("Precision", str(env.get("precision") or "")),
        ("Started", str(env.get("started") or "")[:16].replace("T", " ")),
    ]
    return [(name, value) for name, value in facts if value]


def usage(speed: dict[str, Any]) -> list[tuple[str, str]]:
    """What a step took and how evenly, when the first one was done, memory and energy: (name, value), "" if unknown."""
    steps = sorted(each for each in speed.get("step_seconds") or () if isinstance(each, int | float))
    first, memory, energy = (speed.get(name) for name in ("first_step_s", "peak_memory_gib", "energy_j"))
    spread = f" ({short_time(steps[0])} to {short_time(steps[-1])})" if len(steps) > 1 else ""
    predicted = speed.get("predicted") or {}
    step, peak = (predicted.get(name) for name in ("step_s", "peak_memory_gib"))
    step_said = f", {short_time(step)} predicted" if step else ""
    peak_said = f", {number(peak, 3)} GiB predicted" if peak else ""
    return [
        ("Step time", f"{short_time(median(steps))}{spread}{step_said}" if steps else ""),
        ("First step after", short_time(first) if first else ""),
        ("Peak memory", f"{number(memory, 3)} GiB{peak_said}" if memory else ""),
        ("Energy", joules(energy) if energy else ""),
    ]


def chosen_checkpoint(run: RunRecord) -> str:
    """`step 1,600 of 2,400` where the kept checkpoint was chosen by a rule."""
    step, last = run.best.get("step"), run.log.last_step
    if not isinstance(step, int):
        return ""
    return f"step {step:,} of {last:,}" if last and last != step else f"step {step:,}"


def short_time(seconds: float) -> str:
    """`12 ms`, `0.46 s`, `93 s`, from two minutes on as `duration` has it."""
    if seconds < 0.1:
        return f"{number(1000 * seconds, 3)} ms"
    return f"{number(seconds, 3)} s" if seconds < 120 else duration(seconds)


def joules(energy: float) -> str:
    """`820 J`, `12.4 kJ`, `3.1 MJ`."""
    size, unit = next(((s, u) for s, u in ((1e6, "MJ"), (1e3, "kJ")) if energy >= s), (1, "J"))
    return f"{number(energy / size, 3)} {unit}"


def missing(run: RunRecord) -> list[str]:
    """What the page cannot show, and why."""
    notes, total, reached = list(run.problems), total_steps(run), run.log.last_step
    if not run.metrics.get("metrics"):
        if reached is None:
            why = "training has not reached its first log point"
        elif total and reached < total:
            why = f"the run stopped at step {reached:,} of {total:,}"
        elif run.metrics:
            why = "no held-out pairs are known, so there was no truth to score against"
        else:
            why = "metrics.json is absent, so the evaluation did not finish or was not asked for"
        notes.append(f"No metrics: {why}.")
    if run.samples is None:
        notes.append("No sample pictures: samples/index.json lists none, or their files are gone.")
    if not run.log.losses:
        notes.append("No loss curves: log.jsonl holds no losses.")
    if not run.log.validation:
        notes.append("No validation curve: nothing was measured on held-out images during training.")
    if not run.recipe_text:
        notes.append("No recipe: recipe.toml is absent.")
    return notes


def alarms(run: RunRecord) -> list[dict[str, Any]]:
    """One entry an alarm's name, with all of its steps and the latest message."""
    grouped: dict[str, dict[str, Any]] = {}
    for entry in run.log.alarms:
        alarm = grouped.setdefault(str(entry["alarm"]), {"name": str(entry["alarm"]), "steps": []})
        alarm["steps"].append(int(entry["step"]))
        alarm["message"] = str(entry.get("message") or "")
    return list(grouped.values())


def environment(run: RunRecord) -> dict[str, list[tuple[str, str]]]:
    """Heading -> (name, value): the plain entries under "", each nested table under its name."""
    tables: dict[str, list[tuple[str, str]]] = {"": []}
    for name, value in run.environment.items():
        if isinstance(value, dict):
            tables[name] = [(str(key), "absent" if entry is None else str(entry)) for key, entry in value.items()]
        elif value is not None and value != "":
            tables[""].append((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return tables if run.environment else {}


def split_summary(run: RunRecord) -> dict[str, Any]:
    """Images and subjects of every set and domain, how they were parted, and a leak that was let pass."""
    found = run.split.get("splits") or run.split
    letters = dict(zip("ab", run.domains, strict=False))
    rows = []
    for name in SETS:
        records = [record for record in found.get(name) or () if isinstance(record, dict)]
        images: dict[str, int] = {}
        for record in records:
            domain = str(record.get("domain", ""))
            images[letters.get(domain, domain)] = images.get(letters.get(domain, domain), 0) + 1
        subjects = {record["subject"] for record in records if record.get("subject")}
        rows.append({"name": name, "images": images, "subjects": len(subjects)})
    domains = sorted({domain for row in rows for domain in row["images"]})
    return {
        "rows": rows if domains else [],
        "domains": domains,
        "how": str(run.split.get("how") or ""),
        "leak": str(run.split.get("leakage_allowed") or ""),
    }


def commands(run: RunRecord) -> list[tuple[str, str]]:
    """(what it does, command line), with this run's own folder and domains."""
    path = run.path
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    folder = shlex.quote(str(path))
    directions = run.samples.directions if run.samples else ()
    targets = dict.fromkeys(d.target for d in directions if d.source) or ({} if directions else run.domains[::-1])
    finished = bool(run.metrics)
    lines = [] if finished else [("Go on training where it stopped", f"gantk resume {folder}")]
    lines += [(f"Make {t} images", f"gantk translate {folder} INPUT OUTPUT --to {shlex.quote(t)}") for t in targets]
    if any(d.source is None for d in directions):
        lines.append(("Draw new images", f"gantk sample {folder} -n 64 --out IMAGES"))
    else:
        lines.append(("Measure again, numbers only", f"gantk eval {folder}"))
    if finished:
        lines.append(("Measure and report again, from the last checkpoint", f"gantk resume {folder}"))
    return lines


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter: `52 s`, `4 min 12 s`, `3 h 05 min`, `2 d 04 h`."""
    whole = round(seconds)
    for size, unit, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // below:02d} {small}"
    return f"{whole} s"
