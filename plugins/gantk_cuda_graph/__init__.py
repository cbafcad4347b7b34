"""A whole training step as one CUDA graph (`train.fast.cuda_graph = true`), as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_steps(engine, graph):
    """What records the engine's steps, on a card or by `graph`, unless they recompute."""
    possible = graph is not None or engine.runtime.device.type == "cuda"
    if not (possible and engine.table.fast.cuda_graph) or engine.table.recompute:
        return None
    from gantk_cuda_graph.capture import Capture

    return Capture(engine, graph)
