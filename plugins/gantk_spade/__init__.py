"""SPADE (Park et al. 2019) as a gantk plugin: generates images from label maps."""

from gantk.errors import UserError
from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the method spade; its label maps need the intensity mapping `label_map`."""
    add.method("spade", "gantk_spade.model:SPADEGAN")


@hookimpl
def gantk_check(model) -> None:
    """Refuse a SPADE recipe whose first domain has no label maps, or another number of classes than
    the method.
    """
    if model.method.name == "spade":
        part, count = model.data.intensity.options.get("a"), model.method.options["classes"]
        if getattr(part, "name", "") != "label_map" or part.options["classes"] != count:
            what = (
                f"spade reads label maps of {count} classes, and data.intensity does not say so of"
                " the first domain"
            )
            remedy = (
                f'a = {{ name = "label_map", classes = {count} }}, b = "percentile" in the mapping'
                ' "domains"'
            )
            raise UserError(what, where="data.intensity", remedy=remedy)
