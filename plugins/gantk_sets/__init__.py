"""Metrics of sets of images beside KID: FID, precision and recall, density and coverage, diversity; and MS-SSIM."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register three metrics of sets (`prdc` has four scores) and one of pairs."""
    add.metric("ms_ssim", "gantk_sets.ms_ssim:MSSSIM")
    add.metric("fid", "gantk_sets.fid:Fid")
    add.metric("prdc", "gantk_sets.neighbours:Prdc")
    add.metric("diversity", "gantk_sets.diversity:Diversity")
