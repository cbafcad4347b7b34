"""Images that Python holds: translated and trained on without a file, and runs that show themselves in a notebook."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the format in which training pictures are kept in a run folder."""
    add.format("array", "gantk_memory.keep:Array")


@hookimpl(trylast=True)
def gantk_translate(model, images, to, look, progress, grad):
    """Arrays, tensors, images of nibabel and SimpleITK, paths and lists of these."""
    from gantk_memory.translate import translated

    return translated(model, images, to, look, progress, grad)


@hookimpl(trylast=True)
def gantk_keep(data, folder, domains):
    """Arrays by domain, tables and PyTorch data sets."""
    from gantk_memory.keep import keep

    return keep(data, folder, domains)


@hookimpl(trylast=True)
def gantk_html(run) -> str:
    """A table of scores and a row of pictures."""
    from gantk_memory.html import run_html

    return run_html(run)
