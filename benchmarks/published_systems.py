"""Writes the tables of benchmarks/results/published-systems.md and of the README from recipes and
recorded trainings.

    python benchmarks/published_systems.py                        # write the tables
    python benchmarks/published_systems.py add RUN --data "43/46 slices" --interruptions 1
    python benchmarks/published_systems.py add RUN --data "43/46 slices" --best-of 1 2 3

`add` reads scores, steps, seconds, machine, date and command from the run folder. It appends them to
benchmarks/results/published-systems.json and writes the tables. Nothing is typed twice.
"""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantk.plugin.spec import toml
from gantk.recipe.departures import NOT_SET, departures
from gantk.terminal import duration

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks/results/published-systems.json"
PAGE = ROOT / "benchmarks/results/published-systems.md"
README = ROOT / "README.md"
NAMES = {
    "cyclegan": "CycleGAN",
    "dualgan": "DualGAN",
    "dcgan": "DCGAN",
    "pix2pix": "Pix2Pix",
    "progan": "ProGAN",
    "style_gan": "Style Transfer GAN",
    "r3gan": "R3GAN",
    "regression": "L1 regression",
}
KEPT_METRICS = (  # of metrics.json; what a record keeps
    "psnr",
    "ssim",
    "mae",
    "kid_random",
    "kid",
    "fid",
    "classification",
    "classification_real",
    "classification_both",
    "transfer",
)
KEPT_BASELINES = ("identity", "intensity_map", "noise", "real_split")
LENGTHS = ("train.steps", "train.epochs")  # how long a training was is its own column
WAYS = ("a_to_b", "b_to_a")
NOT_MEASURED = "not measured yet"
NOTHING_HELD_OUT = "nothing held out"


@dataclass(frozen=True)
class Report:
    """One published report: its number on our pages and the recipes of its systems."""

    number: int
    recipes: tuple[str, ...]
    short: str  # what it translates or generates, for the README

    def papers(self) -> dict[str, dict[str, Any]]:
        """The table [paper] of each recipe."""
        return {name: recipe_tables(name)["paper"] for name in self.recipes}


REPORTS = (
    Report(1, ("cyclegan_t1t2_unet15", "dualgan_t1t2_unet15"), "T1/T2"),
    Report(2, ("cyclegan_t1t2_64",), "T1/T2, 64 px"),
    Report(3, ("cyclegan_t1t2_256",), "T1/T2"),
    Report(4, ("cyclegan_ct_mr", "cyclegan_ct_mr_resnet9"), "CT/MR"),
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
        "tumour MR",
    ),
)


def main() -> None:
    """Read the command line; add a record where asked, then write the tables."""
    parser = argparse.ArgumentParser(description="Tables of the published systems.")
    commands = parser.add_subparsers(dest="command")
    add = commands.add_parser("add", help="append a run folder to the records")
    add.add_argument("run", type=Path)
    add.add_argument("--data", required=True, help="the images, in words")
    add.add_argument("--interruptions", type=int, default=0)
    add.add_argument(
        "--best-of", type=int, nargs="+", default=[], help="reports on whose data our best run is"
    )
    add.add_argument("--note", default="")
    options = parser.parse_args()
    if options.command == "add":
        records = read_records()
        records.append(
            record_of(
                options.run, options.data, options.interruptions, options.best_of, options.note
            )
        )
        RECORDS.write_text(json.dumps(records, indent=1) + "\n", "utf-8")

    for path, text in written().items():
        path.write_text(text, "utf-8")


# ---- records


def read_records() -> list[dict[str, Any]]:
    """All recorded trainings, oldest first."""
    return json.loads(RECORDS.read_text("utf-8"))


def record_of(
    run: Path, data: str, interruptions: int, best_of: list[int], note: str
) -> dict[str, Any]:
    """What a finished run folder says of itself, as one record."""
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
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
        "reports": best_of or [report_of(name).number],
        "kind": "best" if best_of else "published",
        "recipe": name,
        "command": portable(environment["command"]),
        "data": data,
        "domains": metrics["domains"],
        "seed": recipe["train"]["seed"],
        "size": recipe["data"]["size"],
        "batch": recipe["train"]["batch"],
        "steps": metrics["speed"]["steps"],
        "planned_steps": planned_steps(run, recipe),
        "interruptions": interruptions,
        "seconds": round(metrics["speed"]["seconds"]),
        "machine": f"{environment['cpu']}, {counted(environment['threads'])},"
        f" {environment['precision']}, torch {environment['packages']['torch']}",
        "date": environment["started"][:10],
        "differs": {} if best_of else differences(name, recipe),
        "scores": kept_scores(metrics.get("metrics", {})),
        "cycle": {key: rows["mae"]["value"] for key, rows in metrics.get("cycle", {}).items()},
        "baselines": baselines,
        "note": note,
    }


def report_of(recipe: str) -> Report:
    for report in REPORTS:
        if recipe in report.recipes:
            return report
    raise SystemExit(f"'{recipe}' is not a published system: give --best-of NUMBERS")


def portable(command: str) -> str:
    """A command without the folders of one machine."""
    command = re.sub(r" --out \S+", "", command)
    command = re.sub(r"--data \S+", "--data FOLDER", command)
    return re.sub(r"recipes/(\w+)\.toml", r"\1", command)


def planned_steps(run: Path, recipe: dict[str, Any]) -> int:
    """The steps of the whole training, from the last checkpoint."""
    last = max((run / "checkpoints").glob("step-*/meta.json"), key=step_of_checkpoint)
    return json.loads(last.read_text("utf-8"))["steps"]


def step_of_checkpoint(meta: Path) -> int:
    return int(meta.parent.name.removeprefix("step-"))


def differences(name: str, recipe: dict[str, Any]) -> dict[str, list[Any]]:
    """Stated key -> [the report's value, the run's value] where a run departs from its report."""
    stated = recipe_tables(name)["paper"].get("stated", {})
    found = departures(stated, recipe, filled_in=True)
    return {
        key: list(map(value_in_words, pair)) for key, pair in found.items() if key not in LENGTHS
    }


def value_in_words(value: Any) -> str:
    return "not given" if value is None or value is NOT_SET else toml(value)


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
    page = between_marks(page, "overview", overview(records))
    for report in REPORTS:
        page = between_marks(page, f"report {report.number}", trainings(report, records))

    readme = between_marks(README.read_text("utf-8"), "overview", short_overview(records))
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


def overview(records: list[dict[str, Any]]) -> str:
    """One row a report: what was published, ours at its settings, our best on the same data."""
    rows = []
    for report in REPORTS:
        published = "<br>".join(published_figures(report)) or "no scores"
        at_settings = [
            f"`{record['recipe']}`: {scores_in_words(record)}, {length_in_words(record)}"
            for record in latest(report, records, "published")
        ]
        recorded = {record["recipe"] for record in latest(report, records, "published")}
        others = [f"`{name}`" for name in report.recipes if name not in recorded]
        if others:
            at_settings.append(f"{', '.join(others)}: {NOT_MEASURED}")
        best = [
            f"`{record['recipe']}`: {scores_in_words(record)}, {time_in_words(record)}"
            for record in latest(report, records, "best")
        ]
        link = f"[{report.number}](#report-{report.number})"
        rows.append(
            (
                link,
                "<br>".join(f"`{name}`" for name in report.recipes),
                published,
                "<br>".join(at_settings),
                "<br>".join(best) or NOT_MEASURED,
            )
        )

    headers = ("report", "recipes", "published", "here, its settings", "here, our best")
    return markdown_table(headers, rows)


def short_overview(records: list[dict[str, Any]]) -> str:
    """The README's five rows, with PSNR or KID only."""
    rows = []
    for report in REPORTS:
        rows.append(
            (
                f"{report.number}: {report.short}",
                short_published(report),
                short_scores(latest(report, records, "published"), name_system=True),
                short_scores(latest(report, records, "best")),
            )
        )

    return markdown_table(("report", "published", "here", "our best"), rows)


def latest(report: Report, records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The newest record of each recipe, in the order of the recipes; one with scores if any."""
    newest: dict[str, dict[str, Any]] = {}
    for record in records:
        name = record["recipe"]
        wanted = report.number in record["reports"] and record["kind"] == kind
        if wanted and (record["scores"] or not newest.get(name, {}).get("scores")):
            newest[name] = record
    order = {name: place for place, name in enumerate(report.recipes)}
    return sorted(newest.values(), key=lambda record: order.get(record["recipe"], 0))


def published_figures(report: Report) -> list[str]:
    """The report's own figures, each with its system and its direction."""
    found = []
    for name, paper in report.papers().items():
        tables = recipe_tables(name)
        system = NAMES[tables["method"]["name"]]
        figures = paper.get("published", {})
        for direction, scores in figures.items():
            if direction in WAYS:
                way = direction_in_words(direction, tables["data"]["domains"])
                found.append(f"{system} {way}: {scores['psnr']:.2f} dB / {scores['ssim']:.2f}")
            elif direction == "accuracy":
                style = " + style" if name.endswith("_style") else ""
                found.append(f"{system}{style}: accuracy {100 * scores:g} %, undefined")
    return found


def short_published(report: Report) -> str:
    if any("accuracy" in paper.get("published", {}) for paper in report.papers().values()):
        return "accuracies, undefined"
    figures = [figure.partition(" dB")[0].replace(":", "") for figure in published_figures(report)]
    return ", ".join(figures) or "no scores"


def short_scores(found: list[dict[str, Any]], *, name_system: bool = False) -> str:
    """PSNR both ways, or KID, of the first recorded system."""
    if not found:
        return NOT_MEASURED
    first = found[0]
    if not first["scores"]:
        return NOTHING_HELD_OUT
    scores = final_scores(first["scores"])
    row = scores.get("image")
    if row:
        words = f"KID {row['kid_random']['value']:.2f}"
    else:
        psnr = [f"{row['psnr']['value']:.1f}" for row in scores.values()]
        words = " / ".join(psnr)
    system = recipe_tables(first["recipe"])["method"]["name"]
    return f"{NAMES[system]} {words}" if name_system else words


def final_scores(scores: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The scores of each direction: after the post-steps, where a recipe has some."""
    return {
        direction: scores.get(f"{direction}_post", row)
        for direction, row in scores.items()
        if not direction.endswith("_post")
    }


def direction_in_words(direction: str, domains: list[str]) -> str:
    names = domains if direction == "a_to_b" else domains[::-1]
    return " -> ".join(names)


def scores_in_words(record: dict[str, Any]) -> str:
    """PSNR / SSIM of each direction, or KID and what a classifier learns, after post-steps."""
    found = []
    for direction, row in final_scores(record["scores"]).items():
        way = ""
        if direction in WAYS:
            way = f"{direction_in_words(direction, record['domains'])} "
        if "psnr" in row:
            found.append(f"{way}{row['psnr']['value']:.2f} dB / {row['ssim']['value']:.3f}")
            way = ""  # said once
        for metric, word in (("kid_random", "KID"), ("classification", "classifier")):
            if metric in row:
                before = record["scores"][direction].get(metric, {}).get("value")
                value = f"{row[metric]['value']:.3f}"
                changed = before is not None and before != row[metric]["value"]
                found.append(
                    f"{way}{word} {value}" + (f" (before: {before:.3f})" if changed else "")
                )
    if not found:
        found.append(NOTHING_HELD_OUT)
        for direction, error in record.get("cycle", {}).items():
            there, back = record["domains"] if direction == "a_to_b" else record["domains"][::-1]
            found.append(f"{there} -> {back} -> {there} MAE {error:.3f}")
    return ", ".join(found)


def time_in_words(record: dict[str, Any]) -> str:
    return duration(record["seconds"]) if record["seconds"] else "time not recorded"


def length_in_words(record: dict[str, Any]) -> str:
    """Steps, and of how many where the training was stopped."""
    done = f"{record['steps']:,} steps"
    if record["steps"] < record["planned_steps"]:
        done = f"{record['steps']:,} of {record['planned_steps']:,} steps"
    return done


def trainings(report: Report, records: list[dict[str, Any]]) -> str:
    """Every recorded training of a report, and the commands."""
    own = [record for record in records if report.number in record["reports"]]
    if not own:
        return f"Trainings: {NOT_MEASURED}.\n"
    rows = []
    for record in own:
        size = " x ".join(map(str, record["size"]))
        rows.append(
            (
                f"`{record['recipe']}`, {'ours' if record['kind'] == 'best' else settings_in_words(record)}",
                record["data"],
                f"{size}, batch {record['batch']}",
                length_in_words(record),
                str(record["interruptions"]),
                time_in_words(record),
                scores_in_words(record),
                baseline_in_words(record),
            )
        )
    headers = (
        "recipe, settings",
        "data",
        "size",
        "trained for",
        "interruptions",
        "time",
        "scores",
        "intensity map (noise)",
    )
    commands = list(dict.fromkeys(record["command"] for record in own))
    sources = list(
        dict.fromkeys(
            f"`{record['recipe']}`, seed {record['seed']}: {record['date']}, {record['machine']}."
            f"{' ' + record['note'] if record['note'] else ''}"
            for record in own
        )
    )
    parts = [
        markdown_table(headers, rows).rstrip("\n"),
        "\n".join(f"* {source}" for source in sources),
        "```bash\n" + "\n".join(commands) + "\n```",
    ]
    return "\n".join(f"{part}\n" for part in parts).rstrip("\n") + "\n"


def settings_in_words(record: dict[str, Any]) -> str:
    """`as stated`, or what differs from the report."""
    if not record["differs"]:
        return "as stated"
    parts = [
        f"`{key}` = {here} instead of {stated}" for key, (stated, here) in record["differs"].items()
    ]
    return ", ".join(parts)


def baseline_in_words(record: dict[str, Any]) -> str:
    name = "noise" if "image" in record["scores"] else "intensity_map"
    row = record["baselines"].get(name)
    return scores_in_words(record | {"scores": row}) if row else ""


if __name__ == "__main__":
    main()
