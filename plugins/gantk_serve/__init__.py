"""`gantk serve`: a worker beside an Orthanc, which translates the series that its rules name and
gives Orthanc the derived series. `gantk app`: the same in a window of the browser.

Read `worker.py` first.
"""

from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the functions of the Python interface."""
    add.function("serve", "gantk_serve.worker:serve")
    add.function("app", "gantk_serve.app.start:app")


@hookimpl
def gantk_commands(cli) -> None:
    """Add `gantk serve` and `gantk app`."""
    from gantk_serve.app.command import command as app
    from gantk_serve.command import command as serve

    cli.add_command(serve)
    cli.add_command(app)
