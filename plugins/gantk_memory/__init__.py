"""Images in Python's memory: translates them and trains on them without files, and shows runs in a
notebook.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the format array, in which a run folder keeps training images that Python gave."""
    add.format("array", "gantk_memory.keep:Array")


@hookimpl(trylast=True)
def gantk_translate(model, images, to, look, progress, grad):
    """Translate arrays, tensors, images of nibabel and SimpleITK, paths, and lists of these."""
    from gantk_memory.translate import translated

    return translated(model, images, to, look, progress, grad)


@hookimpl(trylast=True)
def gantk_keep(data, folder, domains):
    """Write arrays by domain, tables and PyTorch data sets into a run folder."""
    from gantk_memory.keep import keep

    return keep(data, folder, domains)


@hookimpl(trylast=True)
def gantk_html(run) -> str:
    """HTML of a run: a table of scores and a row of pictures."""
    from gantk_memory.html import run_html

    return run_html(run)
