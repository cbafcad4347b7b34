"""Does the choice without truth agree with the truth? Every checkpoint of a run by its score and by the hidden pairs.

    python benchmarks/selection.py dualgan_t1t2 cut_t1t2 --seeds 0 1 2 --saves 24 --json FILE
    python benchmarks/selection.py cyclegan_t1t2 --set method.local_ncc=0.0 --set method.flat_region=0.0 --json FILE
    python benchmarks/selection.py RUN RUN --json FILE      # runs that kept their checkpoints (train.keep)

Trains with many saves, then judges each checkpoint as `gantk run` does at a save and scores it on the test pairs, which
the judge never sees. Reported: Spearman's correlation between score and truth (over all saves, and over the later half,
where the choice is made), and the regret: the best PSNR of any checkpoint minus that of the chosen one. Beside it the
regret of taking the last one, and of choosing by one criterion alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

import gantk
from gantk.inference.tiles import whole_images
from gantk.machine.runtime import start
from gantk.metrics.checkpoint_choice import MOST, Choice, criterion_for
from gantk.metrics.pairs import PSNR, SSIM
from gantk.runs import checkpoint
from gantk.runs.folder import RunFolder
from gantk.training.assemble import Parts, assemble, restore
from gantk.training.loop import inference_weights

OTHER = {"a": "b", "b": "a"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="+", help="recipes to train, or run folders")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--saves", type=int, default=24, help="checkpoints of each training")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--profile")
    parser.add_argument("--out", default="runs", help="where the run folders go")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    rows = []
    for name in options.recipe:
        known = (Path(name) / "recipe.toml").is_file()
        for seed in [None] if known else options.seeds:
            rows.append(judged(RunFolder.open(name) if known else trained(name, seed, options)))
            print(line_of(rows[-1]), flush=True)
            write(options.json, rows)
    print(json.dumps(summary_of(rows), indent=1))


def trained(name: str, seed: int, options: argparse.Namespace) -> RunFolder:
    """A run of which every checkpoint is kept."""
    loaded = gantk.load_recipe(name).override(options.set, options.profile)
    steps = loaded.check().train.steps
    if steps is None:
        sys.exit(f"{name} trains by epochs: give --set train.steps=N")
    every = max(1, steps // options.saves)
    kept = [f"train.save_every={every}", f"train.keep={steps // every + 1}", f"train.seed={seed}"]
    out = Path(options.out) / f"selection-{Path(name).stem}-{seed}-{time.strftime('%H%M%S')}"
    return gantk.run(name, set=[*options.set, *kept], profile=options.profile, out=out)


def judged(folder: RunFolder) -> dict:
    """Every checkpoint of a run, judged and scored, and what follows from it."""
    recipe = folder.recipe()
    model = recipe.check()
    parts = assemble(model, start(None, model.train.precision, model.train.fast.channels_last))
    if not parts.method.directions() or not parts.data.pairs("test"):
        sys.exit(f"{folder.path} has no hidden pairs to hold the choice against")
    judge = criterion_for(parts.model, parts.data, parts.method, parts.runtime)
    judge.count = MOST  # as many images as between saves a usual distance apart
    choice, rows = Choice(judge.rule, judge.higher), []
    for step in checkpoint.steps_saved(folder.checkpoints):
        restore(parts, checkpoint.path_of(folder.checkpoints, step))
        with inference_weights(parts.method, parts.engine):
            began = time.process_time()
            entry = judge()
            seconds = time.process_time() - began
            rows.append({"step": step, "selection": entry, "judge_cpu_s": round(seconds, 3), "truth": truth_of(parts)})
        choice.add(step, entry)
    environment = json.loads((folder.path / "environment.json").read_text())
    return {
        "run": folder.path.name,
        "recipe": {name: recipe.tables[name] for name in ("method", "data", "train")},
        "rule": judge.rule,
        "machine": {key: environment[key] for key in ("device", "cpu", "threads", "precision", "torch", "gantk")},
        "training_s": folder.usage().get("seconds"),
        "agreement": agreement(rows, choice),
        "checkpoints": rows,
    }


def truth_of(parts: Parts) -> dict[str, dict[str, float]]:
    """Mean PSNR and SSIM on the test pairs, by direction."""
    low, high = parts.data.range
    found, pairs = {}, parts.data.pairs("test")
    side = {letter: torch.stack([parts.data.image(pair[letter]) for pair in pairs]) for letter in "ab"}
    for to in parts.method.directions():
        through = whole_images(lambda x, to=to: parts.method.translate(x, to), parts.method, parts.model, parts.runtime)
        made, real = (parts.data.centre(images) - low for images in (through(side[OTHER[to]]), side[to]))
        metrics = (metric(high - low, parts.model.data.dims) for metric in (PSNR, SSIM))
        found[f"{OTHER[to]}_to_{to}"] = {metric.name: float(metric(made, real).double().mean()) for metric in metrics}
    return found


def agreement(rows: list[dict], choice: Choice) -> dict:
    """Correlations of the score with the truth, and regrets of the choice and of simpler ones."""
    psnr, ssim = (
        np.array([np.mean([d[name] for d in row["truth"].values()]) for row in rows]) for name in ("psnr", "ssim")
    )
    steps = [row["step"] for row in rows]
    scores = np.array([np.nan if row["selection"]["score"] is None else row["selection"]["score"] for row in rows])
    good = scores if choice.higher else -scores
    late = slice(len(rows) // 2, None)
    picks = {"chosen": steps.index(choice.best), "last": len(rows) - 1}
    for name in rows[-1]["selection"].get("a_to_b", {}):
        values = [np.mean([d[name] for d in row["selection"].values() if isinstance(d, dict) and d]) for row in rows]
        picks[f"by {name} alone"] = int(np.nanargmax(values) if choice.higher else np.nanargmin(values))
    return {
        "spearman_psnr": correlation(good, psnr),
        "spearman_psnr_late": correlation(good[late], psnr[late]),
        "spearman_ssim": correlation(good, ssim),
        "spearman_ssim_late": correlation(good[late], ssim[late]),
        "best": {"step": steps[int(psnr.argmax())], "psnr": float(psnr.max()), "ssim": float(ssim.max())},
        "picks": {
            name: {
                "step": steps[at],
                "psnr": float(psnr[at]),
                "regret_db": float(psnr.max() - psnr[at]),
                "regret_ssim": float(ssim.max() - ssim[at]),
            }
            for name, at in picks.items()
        },
    }


def correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    known = np.isfinite(one)
    value = spearmanr(one[known], other[known])[0] if known.sum() > 2 else np.nan
    return float(value) if np.isfinite(value) else None


def summary_of(rows: list[dict]) -> dict:
    """Means and worst cases over all runs."""
    found = [row["agreement"] for row in rows]
    names = dict.fromkeys(name for each in found for name in each["picks"])
    mean = lambda values: float(np.mean(values)) if (values := [v for v in values if v is not None]) else None  # noqa: E731
    regrets = {name: [each["picks"][name]["regret_db"] for each in found if name in each["picks"]] for name in names}
    return {
        "runs": len(rows),
        **{key: mean(each[key] for each in found) for key in found[0] if key.startswith("spearman")},
        "regret_db": {name: {"mean": mean(values), "worst": max(values)} for name, values in regrets.items()},
    }


def line_of(row: dict) -> str:
    found, picks = row["agreement"], row["agreement"]["picks"]
    return (
        f"{row['run']}: spearman {found['spearman_psnr']}, chosen step {picks['chosen']['step']} "
        f"regret {picks['chosen']['regret_db']:.2f} dB, last {picks['last']['regret_db']:.2f} dB"
    )


def write(file: str | None, rows: list[dict]) -> None:
    if not file:
        return
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "machine": rows[-1]["machine"],
        "summary": summary_of(rows),
        "runs": rows,
    }
    Path(file).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
