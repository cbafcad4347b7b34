"""Metrics of sets of images beside KID: FID, precision and recall, density and coverage, diversity."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Three metrics; `prdc` is four scores."""
    add.metric("fid", "gantk_sets.fid:Fid")
    add.metric("prdc", "gantk_sets.neighbours:Prdc")
    add.metric("diversity", "gantk_sets.diversity:Diversity")
