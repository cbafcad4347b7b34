"""Trackers: write a training's curves, samples, scores and report to TensorBoard, Weights & Biases
or MLflow.
"""

import importlib.util
from pathlib import Path

from gantk.errors import UserError

TRACKERS = {"tensorboard": "TensorBoard", "wandb": "WandB", "mlflow": "MLflow"}  # package -> class


def expect_installed(parts) -> None:
    """UserError for a tracker of the recipe whose library is not installed."""
    for part in parts:
        if part.name in TRACKERS and importlib.util.find_spec(part.name) is None:
            raise UserError(
                f"the tracker '{part.name}' needs the package {part.name}, which is not installed",
                where="track",
                remedy=f'install it: pip install {part.name}, or all trackers with pip install "gantk[track]"',
            )


def bring_up_to_date(run: Path, ending: bool) -> None:
    """Send what is new in a run folder to its trackers; `ending`: the rest too, and close them."""
    from gantk_cluster.track.follow import followers

    for follower in followers(run, leaving=ending):
        follower.bring(ending=ending)
