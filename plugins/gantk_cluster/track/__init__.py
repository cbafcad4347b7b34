"""Trackers: write a training's curves, samples, scores and report to TensorBoard, Weights & Biases
or MLflow.
"""

import importlib
from pathlib import Path

from gantk.errors import importing

TRACKERS = {"tensorboard": "TensorBoard", "wandb": "WandB", "mlflow": "MLflow"}  # package -> class


def expect_installed(parts) -> None:
    """UserError for a tracker of the recipe whose library is not installed."""
    for part in parts:
        if part.name in TRACKERS:
            with importing(f"the tracker '{part.name}'", "track"):
                importlib.import_module(part.name)


def bring_up_to_date(run: Path, ending: bool) -> None:
    """Send what is new in a run folder to its trackers; `ending`: the rest too, and close them."""
    from gantk_cluster.track.follow import followers

    for follower in followers(run, leaving=ending):
        follower.bring(ending=ending)
