"""Further optimizers and schedules (AdamW, RMSProp, L-BFGS, cosine, warm-up), as a gantk plugin."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register three of torch's optimizers and two schedules."""
    for name in ("adamw", "rmsprop", "lbfgs"):
        add.optimizer(name, f"gantk_optimizers.rules:{name}")
    add.schedule("cosine", "gantk_optimizers.rules:Cosine")
    add.schedule("warmup", "gantk_optimizers.rules:Warmup")
