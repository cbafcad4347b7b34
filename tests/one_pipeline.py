"""A model from T1 to T2 whose network is a function, in place of a trained one."""

from pathlib import Path

from gantk import Model
from gantk.data.intensity import Window
from gantk.inference.frame import Frame
from gantk.inference.pipeline import Pipeline


class OnePipeline(Model):
    """Its network is `network`, whatever is asked for."""

    checkpoint = Path()

    def __init__(self, own: Pipeline, network, name: str = "same"):
        self.network = network
        self.name = name
        self.pipelines = {"b": own}

    def identity(self):
        return {"name": self.name, "sha256": "0"}

    def classes(self):
        return ()

    def network_of(self, letter, options):
        return self.network


def model_of(network, white=250.0, name="same", **changes) -> OnePipeline:
    """The model of a function of images in network intensities; `white` is their 1 in files."""
    known = {"size": (32, 32), "dims": 2, "channels": 1, "range": (-1.0, 1.0)}
    frame = Frame(**{"source": "T1", "target": "T2"} | known | changes)
    scale = Window(low=0.0, high=white)
    return OnePipeline(Pipeline(frame, scale, scale), network, name)
