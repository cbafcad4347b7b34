"""A whole training step as one CUDA graph (`train.fast.cuda_graph = true`), as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_steps(engine, graph):
    """Return a `Capture` if train.fast.cuda_graph is set, on a GPU or with `graph`; None with
    train.recompute.
    """
    possible = graph is not None or engine.runtime.device.type == "cuda"
    if not (possible and engine.table.fast.cuda_graph) or engine.table.recompute:
        return None
    from gantk_cuda_graph.capture import Capture

    return Capture(engine, graph)
