"""CT in Hounsfield units: intensity windows, a separate mapping for each domain, a loss, and errors
in HU.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the mappings, the loss and the metrics."""
    add.intensity("window", "gantk_ct.intensity:Window")
    add.intensity("ct", "gantk_ct.intensity:Windows")
    add.intensity("domains", "gantk_ct.intensity:Domains")
    add.loss("correlation_ratio", "gantk_ct.loss:CorrelationRatio")
    add.metric("mae_hu", "gantk_ct.metric:HounsfieldMAE")
    add.metric("psnr_hu", "gantk_ct.metric:HounsfieldPSNR")
