"""The command line of this package."""

import click

from gantk.terminal import Command, data_option, profile_option, set_option

COUNT = click.IntRange(1, 100_000)


@click.command(
    "slurm",
    cls=Command,
    short_help="Write a job script for a SLURM cluster.",
    section="Scale",
    place=3,
    examples=[
        "gantk slurm dualgan_t1t2 --data SCANS --nodes 2 --gpus 4 > job.sh && sbatch --time 8:00:00 job.sh",
    ],
)
@click.argument("what", metavar="RECIPE|RUN")
@click.option("--nodes", type=COUNT, default=1, show_default=True, help="Machines.")
@click.option(
    "--gpus",
    type=click.IntRange(0, 64),
    default=1,
    show_default=True,
    help="GPUs on each node, each for one process.",
)
@data_option
@set_option
@profile_option
@click.option(
    "--out", metavar="DIR", help="Run folder, visible to all nodes. Default: runs/NAME-JOB."
)
def slurm_command(what, **options) -> None:
    """Print a commented job script for sbatch.

    The job trains a RECIPE, or resumes a RUN. Two minutes before its time limit, or when it is preempted, the job writes a
    checkpoint, queues itself again and later resumes exactly there. A failed job is not restarted.
    Time, partition and cores are sbatch's own options.
    """
    from gantk_cluster.slurm.script import job_script

    click.echo(job_script(what, **options), nl=False)
