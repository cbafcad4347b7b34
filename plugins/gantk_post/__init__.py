"""Post-steps that correct translated images by their inputs: slices that agree, the bias field; a
gantk plugin.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the post-steps slices and bias_field."""
    add.post("slices", "gantk_post.slices:AgreeingSlices")
    add.post("bias_field", "gantk_post.bias_field:InputBiasField")
