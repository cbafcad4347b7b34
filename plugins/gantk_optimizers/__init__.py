"""Optimizers and schedules that published systems use beside Adam with a linear decay, as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Torch's update rules in this toolkit's memory layouts, and two schedules."""
    for name in ("adamw", "rmsprop", "lbfgs"):
        add.optimizer(name, f"gantk_optimizers.rules:{name}")
    add.schedule("cosine", "gantk_optimizers.rules:Cosine")
    add.schedule("warmup", "gantk_optimizers.rules:Warmup")
