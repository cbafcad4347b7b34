"""How much memory training takes, with and without what saves it, and how near `gantk doctor` was before it began.

Every figure is of a process of its own, by the system's count (ru_maxrss), beside what was predicted in another one.

    python benchmarks/memory.py budget [--json FILE]      128^3 and 1024^2 with what saves memory, alone and together
    python benchmarks/memory.py accuracy [--json FILE]    recipes as they come, cpu profile where there is one
    python benchmarks/memory.py one RECIPE [--set KEY=VALUE]... [--profile NAME] [--steps N] [--json FILE]

Times mean something on a quiet machine only. Rows are added to the file, in the place of those of the same settings.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

SAVING = {
    "plain": [],
    "microbatch": ["train.microbatch=1"],
    "recompute": ["train.recompute=true"],
    "system": ['train.allocator="system"'],
    "recompute+system": ["train.recompute=true", 'train.allocator="system"'],
    "both": ["train.microbatch=1", "train.recompute=true"],
    "least": ["train.microbatch=1", "train.recompute=true", 'train.allocator="system"'],
}
LARGE = {
    "cyclegan_3d": ["data.size=[128, 128, 128]", "train.batch=2"],
    "cyclegan_t1t2": ["data.size=[1024, 1024]", "train.batch=2", "method.coarse=0.0"],
}
RECIPES = ["cyclegan_3d", "dualgan_t1t2", "pix2pix_t1t2", "progan_phantom", "dcgan_phantom", "cut_t1t2", "munit_t1t2",
           "cyclegan_ct_mr_resnet9", "cyclegan_t1t2_256"]  # fmt: skip


def trained(recipe: str, settings: list[str], profile: str | None, steps: int) -> dict:
    """Train some steps on noise of the recipe's shape; GiB before and at the peak, seconds per step."""
    from gantk.costs.budget import batch_of, build, largest, shape_of
    from gantk.machine.allocator import use_allocator
    from gantk.machine.runtime import describe, start
    from gantk.machine.usage import peak_memory, resident
    from gantk.recipe.load import load_recipe
    from gantk.training.engine import Engine
    from gantk.training.loop import plan_of

    model = load_recipe(recipe).override(settings, profile).check()
    runtime = start("cpu", model.train.precision, model.train.channels_last)
    use_allocator(model.train.allocator)
    before, shape = resident() / 2**30, shape_of(model)
    method = build(model, shape, runtime)
    stage = largest(method.stages(model.train.steps or 1000))
    method.begin(stage, batch_of(model, shape, stage, runtime))
    engine, samples = Engine(method, plan_of(model.train, 1000), runtime), []
    for step in range(steps):
        runtime.seed(0, step)
        batch, began = batch_of(model, shape, stage, runtime), time.perf_counter()
        engine.train_step(batch)
        samples.append(time.perf_counter() - began)
    peak = peak_memory("cpu")
    return {"before_gib": before, "peak_memory_gib": peak, "step_s": samples, "machine": describe(runtime)}


def predicted(recipe: str, settings: list[str], profile: str | None) -> dict:
    """What `gantk doctor` says."""
    from gantk.api import predict

    return predict(recipe, set=settings, profile=profile, device="cpu").state()


def apart(what: str, recipe: str, settings: list[str], profile: str | None, steps: int) -> dict:
    """One of the two above, in a process of its own."""
    call = json.dumps([what, recipe, settings, profile, steps])
    done = subprocess.run([sys.executable, __file__, "--child", call], capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:] or f"ended with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def row(recipe: str, settings: list[str], profile: str | None, steps: int) -> dict:
    """Predicted and measured; their ratios where both are there."""
    found = {"recipe": recipe, "set": settings, "profile": profile, "date": date.today().isoformat()}
    found |= {what: apart(what, recipe, settings, profile, steps) for what in ("predicted", "trained")}
    said, real = found["predicted"], found["trained"]
    if "failed" not in said and "failed" not in real:
        step = min(real["step_s"][1:] or real["step_s"])
        found["predicted_to_measured"] = {
            "memory": said["peak_memory_gib"] / real["peak_memory_gib"],
            "memory_beyond_process": (said["peak_memory_gib"] - said["process_gib"])
            / max(1e-9, real["peak_memory_gib"] - real["before_gib"]),
            "step": said["step_s"] / step,
        }
        ratios = found["predicted_to_measured"]
        print(
            f"{recipe:<24} {' '.join(settings) or '-':<70} {real['peak_memory_gib']:6.2f} GiB, "
            f"predicted {said['peak_memory_gib']:6.2f} ({ratios['memory']:.2f})   "
            f"{step:7.3f} s, predicted {said['step_s']:7.3f} ({ratios['step']:.2f})",
            flush=True,
        )
    else:
        print(f"{recipe:<24} {' '.join(settings)}: {said.get('failed') or real.get('failed')}", flush=True)
    return found


def has_profile(recipe: str, name: str) -> bool:
    from gantk.recipe.load import load_recipe

    return name in load_recipe(recipe).tables.get("profile", {})


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        what, recipe, settings, profile, steps = json.loads(sys.argv[2])
        about = recipe, settings, profile
        print(json.dumps(predicted(*about) if what == "predicted" else trained(*about, steps)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["budget", "accuracy", "one"])
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--profile", metavar="NAME")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--ways", nargs="+", choices=SAVING, default=list(SAVING), help="of the budget")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    if options.what == "budget":
        wanted = [(name, [*size, *SAVING[way]], None) for name, size in LARGE.items() for way in options.ways]
    elif options.what == "accuracy":
        wanted = [(name, [], "cpu" if has_profile(name, "cpu") else None) for name in RECIPES]
    else:
        wanted = [(options.recipe, options.set, options.profile)]
    path = Path(options.json) if options.json else None
    rows = json.loads(path.read_text()) if path and path.exists() else []
    for recipe, settings, profile in wanted:
        steps = 2 if options.what == "budget" else options.steps
        found = row(recipe, [*settings, *(options.set if options.what != "one" else [])], profile, steps)
        same = [old for old in rows if [old[k] for k in ("recipe", "set", "profile")] ==
                [found[k] for k in ("recipe", "set", "profile")]]  # fmt: skip
        rows = [old for old in rows if old not in same] + [found]
        if path:
            path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
