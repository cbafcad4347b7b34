"""Uncertainty maps of translations: `gantk translate RUN IN OUT --uncertainty auto`."""

from contextlib import suppress

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the kinds of uncertainty."""
    for name in ("auto", "flips", "dropout", "checkpoints", "cycle", "members"):
        add.uncertainty(name, f"gantk_uncertainty.maps:{name.capitalize()}")


@hookimpl
def gantk_tested(run, result) -> None:
    """Keep the uncertainty judged earlier for the same weights: `translate` scales its maps by the
    factor in it.
    """
    from gantk.errors import UserError
    from gantk.runs.schemas import read

    with suppress(UserError):  # a damaged file is written anew
        before = read(run / "metrics.json")
        if before.get("step") == result["step"] and before.get("uncertainty"):
            result.setdefault("uncertainty", before["uncertainty"])
