"""Trackers: write a training's curves, samples, scores and report to TensorBoard, Weights & Biases
or MLflow.
"""

import importlib.util

from gantk.errors import UserError
from gantk.plugin.hookspecs import hookimpl

TRACKERS = {"tensorboard": "TensorBoard", "wandb": "WandB", "mlflow": "MLflow"}  # package -> class


@hookimpl
def gantk_register(add) -> None:
    """Register the trackers: `gantk run RECIPE --track tensorboard`."""
    for library, cls in TRACKERS.items():
        add.tracker(library, f"gantk_track.trackers:{cls}")


@hookimpl
def gantk_check(model) -> None:
    """Refuse a tracker whose library is not installed, before the training starts."""
    for part in model.track:
        if part.name in TRACKERS and importlib.util.find_spec(part.name) is None:
            what = (
                f"the tracker '{part.name}' needs the package {part.name}, which is not installed"
            )
            remedy = (
                f'install it: pip install {part.name}, or all trackers: pip install "gantk[track]"'
            )
            raise UserError(what, where="track", remedy=remedy)


@hookimpl
def gantk_step(run, logs) -> None:
    """Send what is new in the run folder to its trackers; `logs` None: the training has ended."""
    from gantk_track.follow import followers

    for follower in followers(run, leaving=logs is None):
        follower.bring(ending=logs is None)


@hookimpl
def gantk_end(run) -> None:
    """Send the rest, the scores and the report, and close the trackers."""
    gantk_step(run, None)
