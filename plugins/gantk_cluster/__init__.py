"""Many trainings and many machines: Ray, sweeps, SLURM, trackers."""

from collections.abc import Callable
from pathlib import Path

from gantk import hookimpl

REPORTING: dict[Path, Callable[[], None]] = {}  # run folder of a sweep's trial -> its reporter
TRACKERS = {"tensorboard": "TensorBoard", "wandb": "WandB", "mlflow": "MLflow"}  # package -> class


@hookimpl
def gantk_register(add) -> None:
    """Register the trackers: `gantk run RECIPE --track tensorboard`."""
    for library, cls in TRACKERS.items():
        add.tracker(library, f"gantk_cluster.track.trackers:{cls}")


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk sweep` and `gantk slurm`."""
    from gantk_cluster.slurm.command import slurm_command
    from gantk_cluster.sweep.command import command as sweep

    cli.add_command(sweep)
    cli.add_command(slurm_command)


@hookimpl
def gantk_before_training(model) -> None:
    """Refuse a tracker whose library is not installed, before the training starts."""
    from gantk_cluster.track import expect_installed

    expect_installed(model.track)


@hookimpl
def gantk_step_logged(run, logs) -> None:
    """Send what is new to the run's trackers; report a trial's new checkpoint to its sweep."""
    from gantk_cluster.track import bring_up_to_date

    bring_up_to_date(run, ending=False)
    report = REPORTING.get(run)
    if report is not None:
        report()


@hookimpl
def gantk_training_ended(run) -> None:
    """Send the rest and the scores, and close the trackers."""
    from gantk_cluster.track import bring_up_to_date

    bring_up_to_date(run, ending=True)
