"""Writes the model card of a run: what its files say, by the items of two reporting guidelines."""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gantk import Markdown, RunRecord, escape_markdown, markdown_table, score_table
from gantk.files import expect_file, sha256_of, write_output
from gantk.metrics.names import baseline_words
from gantk.runs.folder import RunFolder, flat
from gantk.runs.models import card, find_model, limits_of, section_of, split_hash
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
# keys that may name patients
NAMING_KEYS = ("path", "table", "file", "start", "weights", "leave_out")


def write_card(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] = "card.md",
    overwrite: bool = False,
    say: Say = print,
) -> str:
    """Write the model card of a run, as Markdown.

    It has a table of all facts that the run's files hold, the scores, and the items of CLAIM and
    TRIPOD+AI, each with the facts that answer it and with what only the authors can fill in. It
    names no patients, files or folders.

    Args:
        run: the run folder.
        out: the file.
        overwrite: whether to replace a file that gantk did not write, or that was changed since.
        say: called with each line of output.

    Raises:
        UserError: a folder does not exist.
    """
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
    text = "\n\n".join(parts) + "\n"
    write_output(Path(out), text.encode())
    for problem in record.problems:
        say(f"warning  {problem}")
    left = text.count("**to be filled in: ")
    say(f"card     {out}; {left} items are left to the authors")
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
        "classes": "; ".join(_classes(record)),
        "split": "; ".join(_split(record)),
        "hashes": "; ".join(_hashes(record)),
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
    """How images were assigned to sets, with the numbers of each, and what follows."""
    if record.split and record.split.how:
        yield record.split.how.partition("; without ")[0]  # who follows was left out
    if record.leak:
        yield "patients on both sides of the split were allowed (--allow-leakage)"
    yield from record.consequences


def _words(value: Any) -> str:
    """A value of a recipe in words; of a table its keys, without paths and what is not set."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} {_words(each)}"
            for key, each in flat(value)
            if each not in (None, "") and key.split(".")[-1] not in NAMING_KEYS
        )
    return f"[{', '.join(map(_words, value))}]" if isinstance(value, list | tuple) else str(value)


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


def _hashes(record: RunRecord) -> Iterator[str]:
    """The SHA-256 of the split and of the weights that are used."""
    if record.sets:
        yield f"split sha256 {split_hash(record.sets)}"
    run = RunFolder(record.path)
    if any(run.checkpoints.glob("step-*")):
        chosen = run.inference_checkpoint()
        yield f"weights of {chosen.name} sha256 {sha256_of(chosen / 'weights.safetensors')}"
