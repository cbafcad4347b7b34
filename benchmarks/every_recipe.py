"""Trains every recipe in its cpu profile (or as it is, where it has none) and keeps one row of figures for each.

    python benchmarks/every_recipe.py --json benchmarks/results/recipes.jsonl
    python benchmarks/every_recipe.py munit_t1t2 cut_t1t2 --json FILE        # these only; their rows are replaced

Each recipe runs in a process of its own with a time limit; a failure is a row too. Images are the embedded phantom's.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from gantk.recipe import all_recipes, load_recipe

SHOWN = ("value", "ci95", "n", "unit", "definition")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="*", help="default: all that gantk itself brings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--limit", type=float, default=1200, metavar="SECONDS", help="longest time for one recipe")
    parser.add_argument("--out", default="runs/recipes", metavar="DIR", help="where the run folders go")
    parser.add_argument("--missing", action="store_true", help="only recipes without a good row in the JSON file")
    parser.add_argument("--table", action="store_true", help="train nothing, print the rows as Markdown")
    parser.add_argument("--json", required=True, metavar="FILE")
    options = parser.parse_args()
    file = Path(options.json)
    if options.table:
        return print_table([json.loads(line) for line in file.read_text().splitlines()])
    rows = {row["recipe"]: row for row in map(json.loads, file.read_text().splitlines())} if file.exists() else {}
    names = options.recipe or sorted(name for name, (_, owner) in all_recipes().items() if owner == "gantk")
    for name in names:
        if options.missing and rows.get(name, {}).get("status") == "ok":
            continue
        rows[name] = row_of(name, Path(options.out) / name, options.set, options.limit)
        print(json.dumps({key: rows[name][key] for key in ("recipe", "status", "wall_s")}), flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(rows[key]) + "\n" for key in sorted(rows)))
    return int(any(rows[name]["status"] != "ok" for name in names if name in rows))


def row_of(name: str, out: Path, settings: list[str], limit: float) -> dict:
    """Train one recipe and gather its figures."""
    profile = ["--profile", "cpu"] if "cpu" in load_recipe(name).tables.get("profile", {}) else []
    arguments = [name, *profile, *(word for setting in settings for word in ("--set", setting))]
    shutil.rmtree(out, ignore_errors=True)
    row = {"recipe": name, "date": date.today().isoformat(), "command": shlex.join(["gantk", "run", *arguments])}
    started = time.perf_counter()
    try:
        command = [sys.executable, "-m", "gantk", "run", *arguments, "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        status, told = ("ok" if done.returncode == 0 else "failed"), done.stderr[-2000:]
    except subprocess.TimeoutExpired:
        status, told = "out of time", f"longer than {limit:g} s"
    row |= {"status": status, "wall_s": round(time.perf_counter() - started, 1)}
    return row | ({"error": told} if status != "ok" else figures_of(out))


def figures_of(out: Path) -> dict:
    """What a finished run folder tells."""
    result = json.loads((out / "metrics.json").read_text())
    environment = json.loads((out / "environment.json").read_text())
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {
        "speed": result["speed"],
        "metrics": {key: brief(scores) for key, scores in result["metrics"].items()},
        "baselines": {
            rival: {key: {name: score["value"] for name, score in scores.items()} for key, scores in directions.items()}
            for rival, directions in result["baselines"].items()
        },
        "verdict": result["verdict"],
        "validation": [line for line in log if "validation" in line],
        "alarms": [line for line in log if "alarm" in line],
        "machine": {key: environment[key] for key in ("device", "cpu", "threads", "precision", "torch", "gantk")},
    }


def print_table(rows: list[dict]) -> int:
    """One line for each recipe and direction: the model's scores, and the best of the trivial baselines."""
    print("| recipe | direction | model | identity (noise) | intensity map (real) | training |")
    print("|---" * 6 + "|")
    for row in rows:
        for direction, scores in row.get("metrics", {}).items():
            names = [name for name in ("psnr", "ssim", "kid_random") if name in scores]
            rivals = [row["baselines"].get(rival, {}).get(direction, {}) for rival in ("identity", "intensity_map")]
            if names == ["kid_random"]:
                rivals = [row["baselines"].get(rival, {}).get("image", {}) for rival in ("noise", "real_split")]
            model = {name: scores[name]["value"] for name in names}
            cells = [" / ".join(_cell(name, one.get(name)) for name in names) for one in (model, *rivals)]
            seconds = f"{row['speed']['seconds']:.0f} s"
            print(f"| `{row['recipe']}` | {direction} | {' | '.join(cells)} | {seconds} |")
        if row["status"] != "ok":
            print(f"| `{row['recipe']}` | {row['status']} | | | | |")
    return 0


def _cell(name: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.{1 if name == 'psnr' else 3}f}"


def brief(scores: dict) -> dict:
    return {name: {key: score.get(key) for key in SHOWN} for name, score in scores.items()}


if __name__ == "__main__":
    sys.exit(main())
