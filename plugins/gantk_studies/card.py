"""Writes the model card of a run: what its files say, by the items of two reporting guidelines."""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gantk import Markdown, RunRecord, escape_markdown, markdown_table, score_table
from gantk.errors import count_noun
from gantk.files import expect_file, sha256_of, write_output
from gantk.metrics.names import baseline_words
from gantk.runs.folder import RunFolder, flat
from gantk.runs.models import card, find_model, limits_of, pack_record, section_of, split_hash
from gantk.runs.results import Results
from gantk.terminal import Say

ITEMS = Path(__file__).with_name("card_items.toml")
LIMITS = (
    "Research software, not a medical device, and not for diagnosis. A network invents what it has"
    " not seen."
)
OF_PATIENTS = "means over patients with 95 % intervals (bootstrap over patients)"
OF_UNKNOWN = "means over images of unknown patients, without intervals"
OF_SETS = "scores of whole sets; 95 % intervals, where there are some, leave out groups of images"
TESTS = "two-sided sign-flip tests against the baseline that is named, corrected by Holm"
MACHINE = ("cpu", "device", "threads", "ranks", "platform", "cuda", "driver")
IN_PATHS = ("path", "table", "file", "start", "weights")  # options that may name patients


def write_card(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    say: Say = print,
) -> str:
    """Write the model card of a run, as Markdown.

    It has a table of all facts that the run's files hold, the scores, and the items of CLAIM and
    TRIPOD+AI, each with the facts that answer it and with what only the authors can fill in. It
    names no patients, files or folders.

    Args:
        run: the run folder.
        out: the file. Default: the text is passed to `say`.
        overwrite: whether to replace a file that gantk did not write, or that was changed since.
        say: called with each line of output.

    Raises:
        UserError: a folder does not exist.
    """
    if out:
        expect_file(out, "--out", overwrite=overwrite)
    path = find_model(run, say)
    record = RunRecord(path)
    facts = facts_of(record)
    known = facts | ({"scores": ""} if record.results.metrics else {})
    parts = [
        f"# {escape_markdown(path.name)}",
        markdown_table(("", ""), facts.items()),
        "## Scores",
        score_table(record.results),
    ]
    for guideline, items in tomllib.loads(ITEMS.read_text("utf-8")).items():
        rows = [(item["number"], item["asks"], _answer(item, known)) for item in items]
        parts += [f"## {guideline}", markdown_table(("item", "asks", "answer"), rows)]
    if record.problems:
        problems = "\n".join(f"- {escape_markdown(problem)}" for problem in record.problems)
        parts += ["## Files that could not be read", problems]

    text = "\n\n".join(parts) + "\n"
    if out:
        write_output(Path(out), text.encode())
    left = text.count("**to be filled in: ")
    say(f"card     {out}; {left} items are left to the authors" if out else text)
    return text


def _answer(item: Mapping[str, Any], known: Mapping[str, str]) -> Markdown:
    """The names of the facts that answer an item, and what is left to fill in."""
    answers = [f"see *{name}*" for name in item.get("known", ()) if name in known]
    left = item.get("open", "" if answers else item["asks"][:1].lower() + item["asks"][1:])
    if left:
        answers.append(f"**to be filled in: {left}**")
    return Markdown("; ".join(answers))


def facts_of(record: RunRecord) -> dict[str, str]:
    """Fact -> sentence, for all facts that the run's files contain."""
    results = record.results
    summary = record.summary(with_paths=False)
    text = card(record.path)
    of_data = text.partition("\n## Data and licences\n")[2].partition("\n## ")[0]
    about = record.environment
    machine = about.dump()
    versions = {"gantk": about.gantk, "Python": about.python, **about.packages}
    scores = [(name, one) for of_way in results.metrics.values() for name, one in of_way.items()]
    definitions = dict.fromkeys(f"{name}: {score.definition}" for name, score in scores)
    alarms = [*(alarm.message for alarm in record.log.alarms), *results.alarms.values()]
    facts = {
        "technique": f"deep learning, {summary}" if record.recipe.method.name else "",
        "paper": record.paper,
        "method": _words(record.recipe.method.dump()),
        "data": _words(record.recipe.data.dump()),
        "training": _words(record.recipe.train.dump()),
        "evaluation": _words(record.recipe.evaluate.dump()),
        "licence": " ".join([*of_data.split(), section_of(text, "Licence")]),
        "counts": "; ".join(_counts(record)),
        "classes": "; ".join(_classes(record)),
        "split": "; ".join(_split(record)),
        "hashes": "; ".join(_hashes(record, RunFolder(record.path))),
        "hardware": _words({key: machine.get(key) for key in MACHINE}),
        "software": ", ".join(f"{name} {each}" for name, each in versions.items() if each),
        "metrics": "; ".join(definitions),
        "baselines": ", ".join(
            baseline_words(name, results.baseline_steps) for name in results.baselines
        ),
        "statistics": "; ".join(_statistics(results)),
        "failures": "; ".join(dict.fromkeys(alarms)),
        "limits": limits_of(record.path) or LIMITS,
    }
    return {name: text for name, text in facts.items() if text}


def _split(record: RunRecord) -> Iterator[str]:
    """How images were assigned to sets, by what these are disjoint, and what follows."""
    split = record.split
    if split is not None:
        yield from filter(None, [split.how, split.splits.by and f"by {split.splits.by}"])
        if split.leakage_allowed:
            yield "patients on both sides of the split were allowed (--allow-leakage)"
        yield from split.splits.consequences or []


def _words(value: Any) -> str:
    """A value of a recipe as `adam (lr 0.0002)`, without paths and what is not set."""
    if isinstance(value, Mapping):
        inner = [
            f"{key} {text}"
            for key, text in ((key, _words(each)) for key, each in flat(value))
            if text and key != "name" and key.split(".")[-1] not in IN_PATHS
        ]
        return " ".join(filter(None, [value.get("name"), f"({', '.join(inner)})" if inner else ""]))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_words, value))
    return "" if value is None else str(value)


def _counts(record: RunRecord) -> Iterator[str]:
    """The numbers of patients and images of each set."""
    for name, images in record.sets.by_name().items() if record.sets else ():
        if images:
            people = {image.subject for image in images} - {"", None}
            patients = count_noun(people, "patient") if people else "unknown patients"
            yield f"{name.replace('_', ' ')}: {patients}, {count_noun(images, 'image')}"


def _classes(record: RunRecord) -> Iterator[str]:
    """The numbers of images of each class in each set."""
    for name, images in record.sets.by_name().items() if record.sets else ():
        classes = Counter(image.label for image in images if image.label)
        if classes:
            counts = (f"{count} {label}" for label, count in sorted(classes.items()))
            yield f"{name.replace('_', ' ')}: {', '.join(counts)}"


def _statistics(results: Results) -> Iterator[str]:
    """How the scores were averaged and tested."""
    scores = [score for of_way in results.metrics.values() for score in of_way.values()]
    if not all(score.of_sets for score in scores):
        unknown = results.split and results.split.unknown_patients
        yield OF_UNKNOWN if unknown else OF_PATIENTS
    if any(score.of_sets for score in scores):
        yield OF_SETS
    if any(each.test for of_way in results.verdict.values() for each in of_way.values()):
        yield TESTS


def _hashes(record: RunRecord, run: RunFolder) -> Iterator[str]:
    """The SHA-256 of the split and of the weights that are used."""
    saved = any(run.checkpoints.glob("step-*"))
    packing = pack_record(run) if saved else None
    split = split_hash(record.sets) if record.sets else packing and packing.split
    if split:
        yield f"split sha256 {split}"
    if saved:
        chosen = run.inference_checkpoint()
        yield f"weights of {chosen.name} sha256 {sha256_of(chosen / 'weights.safetensors')}"
