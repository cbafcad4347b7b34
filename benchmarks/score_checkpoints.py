"""Scores each checkpoint of a run on its held-out images: what a longer training gains, and for
images from noise how far more generated images take a classifier.

    gantk run cyclegan_ct_mr --set train.epochs=100 --set train.keep=100 --out RUN
    python benchmarks/score_checkpoints.py RUN --json FILE
    python benchmarks/score_checkpoints.py RUN --metrics kid classification --images 64 256 1024

With a constant learning rate and no moving average, the checkpoint of step N is what a training of N
steps gives. The run itself is not changed: every score is computed on a copy that has one checkpoint.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tomli_w

import gantk
from gantk.runs import checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", help="default: every checkpoint")
    parser.add_argument("--metrics", nargs="+", help="default: those of the recipe")
    parser.add_argument("--images", type=int, nargs="+", help="generated images; default: recipe's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for step in options.steps or checkpoint.steps_saved(options.run / "checkpoints"):
        for images in options.images or [None]:
            scores = score(options.run, step, images, options.metrics)
            rows.append({"step": step, "images": images, "scores": scores})
            print(row_in_words(rows[-1]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def score(
    run: Path, step: int, images: int | None, metrics: list[str] | None
) -> dict[str, dict[str, Any]]:
    """The scores of metrics.json of a copy of the run that has only this checkpoint."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        left_out = shutil.ignore_patterns("samples", "checkpoints", "report.html", "best.json")
        shutil.copytree(run, copy, ignore=left_out)
        saved = checkpoint.path_of(run / "checkpoints", step)
        shutil.copytree(saved, checkpoint.path_of(copy / "checkpoints", step))
        tables = tomllib.loads((copy / "recipe.toml").read_text("utf-8"))
        evaluate = tables.setdefault("evaluate", {})
        evaluate["checkpoint"] = "last"
        if images:
            evaluate["images"] = images
        (copy / "recipe.toml").write_text(tomli_w.dumps(tables), "utf-8")
        found = gantk.evaluate(copy, metrics=metrics, say=lambda line: None)
    return found["metrics"]


def row_in_words(row: dict[str, Any]) -> str:
    """One line: step, number of images, and each score with its 95 % interval."""
    words = [f"step {row['step']}"]
    if row["images"]:
        words.append(f"{row['images']} images")
    for direction, scores in row["scores"].items():
        for metric, entry in scores.items():
            interval = entry.get("ci95")
            around = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
            words.append(f"{direction} {metric} {entry['value']:.3f}{around}")
    return ", ".join(words)


if __name__ == "__main__":
    main()
