"""`gantk bench`: trains and scores every recipe in the same way and writes one row for each.

`gantk_bench.bench(["dualgan_t1t2"], seeds=3)` does what `gantk bench dualgan_t1t2 --seeds 3` does.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the bundled suites."""
    add.suites("gantk_bench.suites")


@hookimpl
def gantk_commands(cli) -> None:
    """Attach `gantk bench`."""
    from gantk_bench.command import command

    cli.add_command(command)


def __getattr__(name: str):
    if name == "bench":
        from gantk_bench.outcome import bench

        return bench
    raise AttributeError(f"module 'gantk_bench' has no attribute '{name}'")
