"""Metrics of sets of images beside KID: FID, FRD, precision, recall, density, coverage, diversity;
and MS-SSIM.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register four metrics of sets (`prdc` has four scores) and one of pairs."""
    add.metric("ms_ssim", "gantk_sets.ms_ssim:MSSSIM")
    add.metric("fid", "gantk_sets.fid:Fid")
    add.metric("frd", "gantk_sets.frd:Frd")
    add.metric("prdc", "gantk_sets.neighbours:Prdc")
    add.metric("diversity", "gantk_sets.diversity:Diversity")
