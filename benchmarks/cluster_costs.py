"""Times single operations of a cluster on this machine: Ray calls, Tune reports, checkpoints, a
translation's ledger.

    python benchmarks/cluster_costs.py [RECIPE]... [--seconds 3] [--json FILE]

Medians of single calls; in brackets the 10th and 90th percentile (the 10th is the least disturbed
by other processes).
"""

import os
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from harness import RecipeStep, parser, record, samples, write

from gantk.files import write_file
from gantk.machine.runtime import start
from gantk.runs import checkpoint
from gantk_done.ledger import Ledger


def save_of(recipe: str, folder: Path) -> tuple[Callable[[int], Path], int]:
    """(function that writes the recipe's checkpoint with a number, bytes of gradients that a rank
    sends in a step).
    """
    engine = RecipeStep.build(recipe, ['train.precision="fp32"'], "cpu").engine
    trained = [parameter for found in engine.parameters.values() for parameter in {*found}]
    for parameter in trained:
        parameter.grad = parameter.detach().clone()
    [optimizer.step() for optimizer in engine.optimizers.values()]
    weights = {f"model.{name}": tensor for name, tensor in engine.method.state_dict().items()}
    weights |= (
        {f"ema.{name}": tensor for name, tensor in engine.ema.state_dict().items()}
        if engine.ema
        else {}
    )
    save = lambda number: checkpoint.save(folder / recipe, number, weights, engine.state_dict(), {})  # noqa: E731
    return save, sum(parameter.nbytes for parameter in trained)


def reports(save: Path | None = None) -> list[float]:
    """Seconds of each report of a trial to Ray Tune, with the checkpoint in folder `save`, or
    without one.
    """
    from ray import tune

    def trial(config: dict) -> None:
        given = tune.Checkpoint.from_directory(str(save)) if save else None
        tune.report(
            {"took": samples(lambda: tune.report({"took": []}, checkpoint=given), least=11)[1:]}
        )

    with tempfile.TemporaryDirectory() as place:
        return (
            tune.Tuner(trial, run_config=tune.RunConfig(storage_path=place, verbose=0))
            .fit()[0]
            .metrics["took"]
        )


if __name__ == "__main__":
    cli = parser(__doc__, seconds=3.0)
    cli.add_argument("recipes", nargs="*", default=["dualgan_t1t2", "cyclegan_ct_mr"])
    options, numbers = cli.parse_args(), count()
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_worker_niceness": "0",
    }
    import ray

    with tempfile.TemporaryDirectory() as temporary:
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
        folder, task, part = Path(temporary), ray.remote(lambda: None), np.zeros(64 << 20, np.uint8)
        actor = ray.remote(num_cpus=0)(type("Actor", (), {"call": lambda self: None})).remote()
        ledger, job = (
            Ledger(folder / "out", {}),
            SimpleNamespace(name="case.nii.gz", files=[folder]),
        )
        ways = {
            "a line of the ledger": lambda: ledger.add(job, [folder / "out" / "case.nii.gz"]),
            "a result of 0.2 MB, on the disk": lambda: write_file(folder / "made", bytes(200_000)),
            "Ray: a task": lambda: ray.get(task.remote()),
            "Ray: 100 tasks at once": lambda: ray.get([task.remote() for _ in range(100)]),
            "Ray: a call of an actor": lambda: ray.get(actor.call.remote()),
            "Ray: 64 MiB into the object store and out": lambda: ray.get(ray.put(part)).max(),
        }
        saves = {recipe: save_of(recipe, folder) for recipe in options.recipes}
        for recipe, (save, sent) in saves.items():
            size = sum(file.stat().st_size for file in save(0).iterdir())
            print(
                f"{recipe}: {sent / 1e6:.1f} MB of gradients in a step, {size / 1e6:.1f} MB in a"
                " save"
            )
            ways[f"{recipe}: a save"] = lambda save=save: save(next(numbers))
        found = {
            name: samples(way, seconds=options.seconds, most=500) for name, way in ways.items()
        }
        found["Tune: a report"] = reports()
        for recipe in saves:
            found[f"{recipe}: a report with its save"] = reports(
                checkpoint.path_of(folder / recipe, 0)
            )
    for name, each in found.items():
        print(
            "{}: {:.3g} ms [{:.3g}, {:.3g}]".format(name, *1e3 * np.percentile(each, (50, 10, 90)))
        )
    write(options.json, record(start("cpu"), seconds=found))
