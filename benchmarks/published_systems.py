"""Writes the tables of benchmarks/results/published-systems.md and of the README from recipes and
recorded trainings.

    python benchmarks/published_systems.py                        # write the tables
    python benchmarks/published_systems.py add RUN --data "43/46 slices" --interruptions 1
    python benchmarks/published_systems.py add RUN --data "six patients" --test "2 other patients" \
        --partners "none (other people)"    # a recipe of ours, not a published system

`add` reads scores, steps, seconds, machine, date and command from the run folder. It appends them to
benchmarks/results/published-systems.json and writes the tables. Nothing is typed twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantk.recipe.published import departures, keys_of_another_system, value_text
from gantk.terminal import duration
from gantk_bench.rows import commit

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks/results/published-systems.json"
PAGE = ROOT / "benchmarks/results/published-systems.md"
README = ROOT / "README.md"
KEPT_METRICS = (  # of metrics.json; what a record keeps
    "psnr",
    "ssim",
    "mae",
    "kid_random",
    "kid",
    "fid",
    "transfer",
)
KEPT_BASELINES = ("identity", "histogram", "intensity_map", "noise", "real_split")
BASELINE_WORDS = {
    "identity": "input",
    "histogram": "histogram",
    "intensity_map": "map",
    "noise": "noise",
    "real_split": "real",
}
LONG_WORDS = {
    "identity": "the unchanged input",
    "histogram": "histogram matching",
    "intensity_map": "an intensity map",
    "noise": "noise",
}
LENGTHS = ("train.steps", "train.epochs")  # how long a training was is its own column
WAYS = ("a_to_b", "b_to_a")
RECORDED_STEPS = 60  # of a training's held-out scores; how many a record keeps
COURSE_STEPS = 8  # how many the page shows
COURSE_WORDS = {"psnr": "PSNR", "kid_random": "KID"}
COURSE_DIGITS = {"psnr": 1, "kid_random": 2}


@dataclass(frozen=True)
class Report:
    """One published report: its number on our pages and the recipes of its systems."""

    number: int
    recipes: tuple[str, ...]

    def papers(self) -> dict[str, dict[str, Any]]:
        """The table [paper] of each recipe."""
        return {name: recipe_tables(name)["paper"] for name in self.recipes}


@dataclass(frozen=True)
class System:
    """One row of the overview: a system of a report in one direction."""

    report: int
    words: str  # what it does
    recipe: str
    trained: str  # the recipe whose records have its scores
    key: str  # of the scores: a_to_b, b_to_a, image; with _post after the style step
    in_readme: bool = True  # the README has one direction of each, the published one if any


REPORTS = (
    Report(1, ("cyclegan_t1t2_unet15", "dualgan_t1t2_unet15")),
    Report(2, ("cyclegan_t1t2_64",)),
    Report(3, ("cyclegan_t1t2_256",)),
    Report(4, ("cyclegan_ct_mr", "cyclegan_ct_mr_resnet9")),
    Report(
        5,
        (
            "dcgan_tumour",
            "pix2pix_tumour",
            "progan_tumour",
            "dcgan_tumour_style",
            "pix2pix_tumour_style",
            "progan_tumour_style",
            "style_gan_tumour",
        ),
    ),
)
FAMILY_NAMES = {2: "(not named)", 3: "Sree P", 5: "Chithra et al."}


def _two_ways(
    report: int, words: str, recipe: str, domains: str, shown: str = "a_to_b"
) -> tuple[System, System]:
    a, b = domains.split("/")
    return (
        System(report, f"{words} {a} → {b}", recipe, recipe, "a_to_b", shown == "a_to_b"),
        System(report, f"{words} {b} → {a}", recipe, recipe, "b_to_a", shown == "b_to_a"),
    )


SYSTEMS = (
    *_two_ways(1, "CycleGAN", "cyclegan_t1t2_unet15", "T1/T2"),
    *_two_ways(1, "DualGAN", "dualgan_t1t2_unet15", "T1/T2", "b_to_a"),
    *_two_ways(2, "CycleGAN", "cyclegan_t1t2_64", "T1/T2"),
    *_two_ways(3, "CycleGAN", "cyclegan_t1t2_256", "T1/T2"),
    *_two_ways(4, "6 blocks,", "cyclegan_ct_mr", "CT/MR"),
    *_two_ways(4, "9 blocks,", "cyclegan_ct_mr_resnet9", "CT/MR"),
    System(5, "DCGAN", "dcgan_tumour", "dcgan_tumour_style", "image"),
    System(5, "DCGAN + style", "dcgan_tumour_style", "dcgan_tumour_style", "image_post"),
    System(5, "Pix2Pix", "pix2pix_tumour", "pix2pix_tumour_style", "a_to_b"),
    System(5, "Pix2Pix + style", "pix2pix_tumour_style", "pix2pix_tumour_style", "a_to_b_post"),
    System(5, "ProGAN", "progan_tumour", "progan_tumour_style", "image"),
    System(5, "ProGAN + style", "progan_tumour_style", "progan_tumour_style", "image_post"),
    System(5, "tumour added", "style_gan_tumour", "style_gan_tumour", "a_to_b"),
    System(5, "tumour removed", "style_gan_tumour", "style_gan_tumour", "b_to_a"),
)


def main() -> None:
    """Read the command line; add a record where asked, then write the tables."""
    parser = argparse.ArgumentParser(description="Tables of the published systems.")
    commands = parser.add_subparsers(dest="command")
    add = commands.add_parser("add", help="append a run folder to the records")
    add.add_argument("run", type=Path)
    add.add_argument("--data", required=True, help="the images, in words")
    add.add_argument("--interruptions", type=int, default=0)
    add.add_argument("--test", required=True, help="the test images, in words")
    add.add_argument(
        "--partners",
        default="",
        help="for a recipe of ours: whether its training images have true partners, in words",
    )
    add.add_argument(
        "--scores",
        type=Path,
        help="of other images: what `gantk eval RUN --data FOLDER --json FILE` wrote",
    )
    add.add_argument("--note", default="")
    add.add_argument("--cpu-seconds", type=int, help="CPU time, user and system, of all its calls")
    options = parser.parse_args()
    if options.command == "add":
        records = read_records()
        records.append(
            record_of(options.run, options.data, options.test, options.partners, options.scores)
            | {"interruptions": options.interruptions, "note": options.note}
            | {"cpu_seconds": options.cpu_seconds}
        )
        RECORDS.write_text(json.dumps(records, indent=1) + "\n", "utf-8")

    for path, text in written().items():
        path.write_text(text, "utf-8")


# ---- records


def read_records() -> list[dict[str, Any]]:
    """All recorded trainings, oldest first."""
    return json.loads(RECORDS.read_text("utf-8"))


def record_of(
    run: Path, data: str, test: str, partners: str, scored: Path | None = None
) -> dict[str, Any]:
    """What a finished run folder says of itself, as one record; `scored`: a file with its scores on
    other images.
    """
    speed = json.loads((run / "metrics.json").read_text("utf-8"))["speed"]
    metrics = json.loads((scored or run / "metrics.json").read_text("utf-8"))
    environment = json.loads((run / "environment.json").read_text("utf-8"))
    recipe = tomllib.loads((run / "recipe.toml").read_text("utf-8"))
    words = environment["command"].split()
    name = Path(words[words.index("run") + 1]).stem
    baselines = {
        each: kept_scores(metrics["baselines"][each])
        for each in KEPT_BASELINES
        if each in metrics.get("baselines", {})
    }
    return {
        "reports": [] if partners else [report_of(name).number],
        "kind": "ours" if partners else "published",
        "recipe": name,
        "command": portable(environment["command"]),
        "data": data,
        "test": test,
        "partners": partners,
        "domains": metrics["domains"],
        "seed": recipe["train"]["seed"],
        "size": recipe["data"]["size"],
        "batch": recipe["train"]["batch"],
        "steps": speed["steps"],
        "planned_steps": planned_steps(run, recipe),
        "seconds": round(speed["seconds"]),
        "machine": f"{environment['cpu']}, {counted(environment['threads'])},"
        f" {environment['precision']}, torch {environment['packages']['torch']}",
        "date": environment["started"][:10],
        "git": commit(),
        "differs": {} if partners else differences(name, recipe),
        "scores": kept_scores(metrics.get("metrics", {})),
        "baselines": baselines,
        "course": course(run),
        "weights": weights_hash(run),
    }


def course(run: Path) -> list[dict[str, Any]]:
    """The scores of held-out images during the training, each with its step."""
    lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    scored = [entry for entry in entries if "validation" in entry]
    kept = thinned(scored, RECORDED_STEPS)
    return [{"step": entry["step"], **entry["validation"]} for entry in kept]


def thinned(entries: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """No more than `most` of the entries and the last, equally far apart."""
    every = -(-len(entries) // most)
    last = [] if (len(entries) - 1) % every == 0 else [entries[-1]]
    return [*entries[::every], *last]


def weights_hash(run: Path) -> str:
    """SHA-256 of the weights of the last checkpoint."""
    with last_checkpoint(run).with_name("weights.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def report_of(recipe: str) -> Report:
    for report in REPORTS:
        if recipe in report.recipes:
            return report
    raise SystemExit(f"'{recipe}' is not a published system: say --partners")


def portable(command: str) -> str:
    """A command without the folders of one machine."""
    command = re.sub(r" --out \S+", "", command)
    command = re.sub(r"--data \S+", "--data FOLDER", command)
    return re.sub(r"recipes/(\w+)\.toml", r"\1", command)


def planned_steps(run: Path, recipe: dict[str, Any]) -> int:
    """The steps of the whole training, from the last checkpoint."""
    return json.loads(last_checkpoint(run).read_text("utf-8"))["steps"]


def last_checkpoint(run: Path) -> Path:
    """meta.json of the last checkpoint."""
    return max((run / "checkpoints").glob("step-*/meta.json"), key=step_of_checkpoint)


def step_of_checkpoint(meta: Path) -> int:
    return int(meta.parent.name.removeprefix("step-"))


def differences(name: str, recipe: dict[str, Any]) -> dict[str, list[Any]]:
    """Stated key -> [the report's value, the run's value] where a run departs from its report."""
    stated = recipe_tables(name)["paper"].get("stated", {})
    found = departures(stated, recipe)
    return {key: list(map(value_text, pair)) for key, pair in found.items() if key not in LENGTHS}


def counted(threads: int) -> str:
    """`1 thread`, `2 threads`."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def kept_scores(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Value, interval and number of images of the metrics that a record keeps."""
    kept = {}
    for direction, scores in rows.items():
        kept[direction] = {
            metric: {key: scores[metric].get(key) for key in ("value", "ci95", "n", "images")}
            for metric in KEPT_METRICS
            if metric in scores
        }
    return kept


def recipe_tables(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / "recipes" / f"{name}.toml").read_text("utf-8"))


# ---- tables


def written() -> dict[Path, str]:
    """Page and README with their tables as recipes and records have them now."""
    records = read_records()
    page = PAGE.read_text("utf-8")
    page = between_marks(page, "overview", overview(records, SYSTEMS))
    page = between_marks(page, "ours", f"{ours(records)}\n{trainings(our_records(records))}")
    page = between_marks(page, "losses", losses())
    for report in REPORTS:
        own = [record for record in records if report.number in record["reports"]]
        page = between_marks(page, f"report {report.number}", trainings(own))

    in_readme = [system for system in SYSTEMS if system.in_readme]
    readme = README.read_text("utf-8")
    readme = between_marks(readme, "overview", short_overview(records, in_readme))
    return {PAGE: page, README: readme}


def between_marks(text: str, name: str, table: str) -> str:
    """Replace what stands between `<!-- name -->` and the next `<!-- end -->`."""
    start = f"<!-- {name}: written by benchmarks/published_systems.py -->\n"
    before, found, rest = text.partition(start)
    if not found:
        raise SystemExit(f"the mark '{name}' is missing")
    _, found, after = rest.partition("<!-- end -->")
    if not found:
        raise SystemExit(f"the mark '{name}' has no end")
    return f"{before}{start}\n{table}\n<!-- end -->{after}"


def markdown_table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headers, tuple("---" for _ in headers), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def short_overview(records: list[dict[str, Any]], systems: Sequence[System]) -> str:
    """One row for all systems that were trained alike: the nine of the reports."""
    alike: dict[str, list[tuple[System, dict[str, Any]]]] = {}  # by the conditions of the training
    for system in systems:
        record = record_for(system, records)
        alike.setdefault(conditions_in_words(record), []).append((system, record))

    rows = []
    for number, group in enumerate(alike.values(), 1):
        system, record = group[0]
        words = one_by_one(each.words for each, _ in group if not is_styled(each))
        row = (
            str(number),
            one_by_one(f"`{each.recipe}`" for each, _ in group),
            f"{whose(system.report)}: {words}",
            one_by_one(styled(each, published_in_words(each, own)) for each, own in group),
            one_by_one(
                styled(each, score_in_words(own["scores"][each.key])) for each, own in group
            ),
            one_by_one(best_baseline_in_words(own, each.key) for each, own in group),
            f"{stated_in_words(record)}, {record['size'][0]} px, {length_in_words(record)}",
        )
        rows.append(row)
    headers = ("", "recipe", "system", "published", "ours", "best baseline", "trained as")
    return markdown_table(headers, rows)


def is_styled(system: System) -> bool:
    """Whether a row is of a system after the style step."""
    return system.key.endswith("_post")


def styled(system: System, text: str) -> str:
    """A figure, called one of the style step where it is."""
    return f"with style {text}" if is_styled(system) else text


def one_by_one(texts: Iterable[str]) -> str:
    """Different texts one below the other in a cell."""
    return "<br>".join(dict.fromkeys(texts))


def best_baseline_in_words(record: dict[str, Any], key: str) -> str:
    """The baseline with the highest PSNR or the lowest KID; real images are none."""
    scores = {}
    for name in LONG_WORDS:
        row = record["baselines"].get(name, {}).get(key.removesuffix("_post"), {})
        if "psnr" in row:
            scores[name] = row["psnr"]["value"]
        elif "kid_random" in row:
            scores[name] = -row["kid_random"]["value"]
    best = max(scores, key=lambda name: scores[name])
    return f"{BASELINE_WORDS[best]} {abs(scores[best]):.2f}"


def overview(records: list[dict[str, Any]], systems: Sequence[System]) -> str:
    """One row a system and direction; below, recipes, data, length and test images of the rows."""
    rows = []
    recipes: dict[str, list[str]] = {}  # conditions of trainings -> their recipes
    for system in systems:
        record = record_for(system, records)
        stated = stated_in_words(record)
        conditions = f"{stated}; {conditions_in_words(record)}"
        named = recipes.setdefault(conditions, [])
        if system.recipe not in named:
            named.append(system.recipe)
        number = list(recipes).index(conditions) + 1
        row = (
            f"{number} ✓" if stated == "as stated" else str(number),
            whose(system.report),
            system.words,
            published_in_words(system, record),
            score_in_words(record["scores"][system.key]),
            baselines_in_words(record, system.key),
        )
        rows.append(row)
    headers = ("", "report", "system", "published", "here", "beside it")
    lines = [
        f"{number}. {', '.join(f'`{name}`' for name in named)}: {conditions}"
        for number, (conditions, named) in enumerate(recipes.items(), 1)
    ]
    return f"{markdown_table(headers, rows)}\n" + "\n".join(lines) + "\n"


def our_records(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest training of each recipe of ours, first those without true partners of slices."""
    found = [record for record in records if record["kind"] == "ours"]
    newest = {(each["recipe"], each["data"], each["partners"]): each for each in found}
    return sorted(newest.values(), key=lambda record: not record["partners"].startswith("none"))


def ours(records: list[dict[str, Any]]) -> str:
    """One row a direction of our own recipes; below, data, length and test images of the rows."""
    rows = []
    lines = []
    for number, record in enumerate(our_records(records), 1):
        for key, scores in final_scores(record["scores"]).items():
            row = (
                str(number),
                way_in_words(key, record),
                record["partners"].partition(" (")[0].partition(",")[0],
                score_in_words(scores),
                baselines_in_words(record, key),
                f"`{record['recipe']}`",
            )
            rows.append(row)
        earlier = "" if record.get("git") else ", at an earlier commit"
        lines.append(f"{number}. {conditions_in_words(record)} {record['date']}{earlier}.")
    headers = ("", "direction", "true partners", "here", "beside it", "recipe")
    return f"{markdown_table(headers, rows)}\n" + "\n".join(lines) + "\n"


def losses() -> str:
    """The final losses that report 5 gives, as published."""
    sentences = []
    for role in ("Discriminator", "Generator"):
        figures = []
        for system in ("DCGAN", "Pix2Pix", "ProGAN"):
            paper = recipe_tables(f"{system.lower()}_tumour")["paper"]
            loss = paper["published"][f"loss_{role.lower()}"]
            digits = 3 if loss == round(loss, 3) and role == "Discriminator" else 4
            figures.append(f"{system} {loss:.{digits}f}")
        sentences.append(f"{role}: {', '.join(figures)}.")
    return "\n".join(sentences) + "\n"


def whose(number: int) -> str:
    """The first author of a report, in words."""
    paper = next(iter(REPORTS[number - 1].papers().values()))
    names = [each.split(". ")[-1].split()[-1] for each in paper["authors"].split(", ")]
    return FAMILY_NAMES.get(number, f"{names[0]} et al.")


def record_for(system: System, records: list[dict[str, Any]]) -> dict[str, Any]:
    """The newest record that a row shows: of the system's settings, at its largest size."""
    own = [
        record
        for record in records
        if record["kind"] == "published"
        and record["recipe"] == system.trained
        and system.key in record["scores"]
    ]
    return max(own, key=lambda record: (-len(record["differs"]), record["size"], record["steps"]))


def way_in_words(key: str, record: dict[str, Any]) -> str:
    if key.removesuffix("_post") in WAYS:
        return direction_in_words(key.removesuffix("_post"), record["domains"])
    return "from noise"


def direction_in_words(direction: str, domains: list[str]) -> str:
    names = domains if direction == "a_to_b" else domains[::-1]
    return " → ".join(names)


def stated_in_words(record: dict[str, Any]) -> str:
    """Whether a training has the settings of its report."""
    size = recipe_tables(record["recipe"])["data"]["size"]
    shortened = "--profile cpu" in record["command"] or "train.batch" in record["differs"]
    if shortened or record["size"] != size:
        return "smaller"
    if "data.split.test" in record["differs"]:
        return "9 slices held out"
    return "other settings" if record["differs"] else "as stated"


def published_in_words(system: System, record: dict[str, Any]) -> str:
    """The report's own figure of a system and direction, and whether the recorded training is of
    another system; accuracies are undefined in their report.
    """
    figures = recipe_tables(system.recipe)["paper"].get("published", {})
    scores = figures.get(system.key)
    if scores:
        text = f"{scores['psnr']:.2f} / {scores['ssim']:.2f}"
    elif "accuracy" in figures:
        text = f"{100 * figures['accuracy']:g} %"
    else:
        return "none"

    before_post = () if is_styled(system) else ("post",)
    departed = [key for key in record["differs"] if key not in before_post]
    return f"{text}, another system" if keys_of_another_system(departed) else text


def score_in_words(row: dict[str, Any], *, full: bool = False) -> str:
    """PSNR / SSIM, or KID, where lower is better; more digits, intervals, shares if `full`."""
    if "psnr" in row:
        if not full:
            return f"{row['psnr']['value']:.2f} / {row['ssim']['value']:.2f}"
        return f"{with_interval(row['psnr'], 2)} dB / {with_interval(row['ssim'], 3)}"
    if not full:
        return f"KID {row['kid_random']['value']:.2f}"
    found = f"KID {with_interval(row['kid_random'], 3)}"
    if "transfer" in row:
        found += f", {100 * row['transfer']['value']:.0f} % recognised"
    return found


def with_interval(score: dict[str, Any], digits: int) -> str:
    value = f"{score['value']:.{digits}f}"
    if not score.get("ci95"):
        return value
    low, high = score["ci95"]
    return f"{value} [{low:.{digits}f}, {high:.{digits}f}]"


def baselines_in_words(record: dict[str, Any], key: str, *, full: bool = False) -> str:
    """The baselines of a direction: the unchanged input and a map, or noise and real images."""
    found = []
    for name, words in BASELINE_WORDS.items():
        row = record["baselines"].get(name, {}).get(key.removesuffix("_post"))
        if row and "psnr" in row:
            digits = f"{row['psnr']['value']:.2f}"
            found.append(f"{words} {digits}" + (f" / {row['ssim']['value']:.3f}" if full else ""))
        elif row and "kid_random" in row:
            found.append(f"{words} {row['kid_random']['value']:.2f}")
    return ", ".join(found)


def verdict(record: dict[str, Any], key: str) -> str:
    """In words: which baselines are better, and what the style step costs."""
    row = record["scores"][key]
    metric = "psnr" if "psnr" in row else "kid_random"
    sign = 1 if metric == "psnr" else -1
    way = key.removesuffix("_post")
    found = []
    beaten = []
    for name in LONG_WORDS:
        baseline = record["baselines"].get(name, {}).get(way, {}).get(metric)
        if not baseline:
            continue
        if overlap(row[metric], baseline):
            found.append(f"not distinguishable from {LONG_WORDS[name]}")
        elif sign * row[metric]["value"] < sign * baseline["value"]:
            found.append(f"worse than {LONG_WORDS[name]}")
        else:
            beaten.append(LONG_WORDS[name])
    if key.endswith("_post"):
        before = record["scores"][way][metric]
        worse = sign * row[metric]["value"] < sign * before["value"]
        if overlap(row[metric], before):
            found.append("the style step changes nothing")
        else:
            found.append(f"the style step makes it {'worse' if worse else 'better'}")
    return "; ".join(found) or f"better than {' and '.join(beaten)}"


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the intervals of two scores overlap; False where one has none."""
    if not one.get("ci95") or not other.get("ci95"):
        return False
    return one["ci95"][0] <= other["ci95"][1] and other["ci95"][0] <= one["ci95"][1]


def conditions_in_words(record: dict[str, Any]) -> str:
    """Data, size, length and test images of a training."""
    filters = ", fewer filters" if "--profile cpu" in record["command"] else ""
    return (
        f"{record['data']}, {record['size'][0]} px{filters}, batch {record['batch']}, {length_in_words(record)},"
        f" seed {record['seed']}; test: {record['test']}."
    )


def final_scores(scores: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The scores of each direction: after the post-steps, where a recipe has some."""
    return {
        direction: scores.get(f"{direction}_post", row)
        for direction, row in scores.items()
        if not direction.endswith("_post")
    }


def time_in_words(record: dict[str, Any]) -> str:
    if not record["seconds"]:
        return "time not recorded"
    cpu = record.get("cpu_seconds")
    return duration(record["seconds"]) + (f" ({duration(cpu)} of CPU time)" if cpu else "")


def course_in_words(record: dict[str, Any]) -> str:
    """The main score of held-out images during the training, at a few of its steps."""
    parts = []
    for entry in thinned(record["course"], COURSE_STEPS):
        scores = [scores for way, scores in entry.items() if way != "step"]
        (name,) = {"psnr", "kid_random"} & {*scores[0]}
        values = " / ".join(f"{each[name]:.{COURSE_DIGITS[name]}f}" for each in scores)
        parts.append(f"{entry['step']:,}: {values}")
    return f"Held-out {COURSE_WORDS[name]} by step: {', '.join(parts)}."


def length_in_words(record: dict[str, Any]) -> str:
    """Steps, and of how many where the training was stopped."""
    done = f"{record['steps']:,} steps"
    if record["steps"] < record["planned_steps"]:
        done = f"{record['steps']:,} of {record['planned_steps']:,} steps"
    return done


def trainings(records: list[dict[str, Any]]) -> str:
    """One block a recorded training: settings, scores, verdict and command."""
    blocks = []
    for record in records:
        lines = [
            f"**`{record['recipe']}`**, {record['date']}: {conditions_in_words(record)}",
            f"{settings_in_words(record)}. {record['machine']}; {time_in_words(record)},"
            f" {record['interruptions']} interruptions.{' ' + record['note'] if record['note'] else ''}",
            "",
        ]
        scores = record["scores"]
        if not scores:
            lines.append("* Not scored, since no image is held out.")
        if record.get("partners"):
            scores = final_scores(scores)
        for key, row in scores.items():
            style = ", after the style step" if key.endswith("_post") else ""
            lines.append(
                f"* {way_in_words(key, record)}{style}: {score_in_words(row, full=True)};"
                f" {verdict(record, key)} ({baselines_in_words(record, key, full=True)})"
            )
        if record.get("course"):
            lines += ["", course_in_words(record)]
        if "weights" in record:
            lines += [
                "",
                f"Commit {record['git']['commit'][:8]}, weights {record['weights'][:16]}.",
            ]
        blocks.append("\n".join([*lines, "", "```bash", record["command"], "```", ""]))
    return "\n".join(blocks)


def settings_in_words(record: dict[str, Any]) -> str:
    """`As stated`, or what differs from the report; for a recipe of ours, whether it saw partners."""
    if record.get("partners"):
        return f"True partners: {record['partners']}"
    if not record["differs"]:
        return "As stated"
    parts = [
        f"`{key}` = {here} instead of {stated}" for key, (stated, here) in record["differs"].items()
    ]
    return ", ".join(parts)


if __name__ == "__main__":
    main()
