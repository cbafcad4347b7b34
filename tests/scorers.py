"""Scorers of the tiny phantom recipe, and methods that have learned nothing."""

import copy

import torch
from tiny import CPU, TINY

from gantk import Data
from gantk.method import Geometry, Method
from gantk.metrics.evaluate import Scorer
from gantk.plugin.spec import Part
from gantk.recipe.load import load_recipe


class Keeps(Method):
    """Gives the slice back that it is asked about, without its neighbours."""

    def translate(self, image, to):
        assert image.shape[1] == self.geometry.channels["a" if to == "b" else "b"]
        return image


class Samples(Method):
    """Blurred noise around a bright middle; with classes a corner says which."""

    reads = ("image",)
    alike = False

    def sample(self, n, seed, labels=None):
        rng = torch.Generator().manual_seed(seed)
        shape = (n, self.geometry.channels["image"], *self.geometry.size)
        images = torch.rand(shape, generator=rng) * 1.6 - 0.8
        if labels is not None:
            images[:, :, :4, :4] = labels.float()[:, None, None, None]
        return images[:1].expand(shape).clone() if self.alike else images


def scorer_of(method: type, *metrics, source=None, evaluate=None, post=(), **data) -> Scorer:
    """A scorer of the tiny phantom recipe, with the tables changed, and a method that has learned
    nothing.
    """
    tables = copy.deepcopy(TINY)
    noise = issubclass(method, Samples)
    tables["data"] |= ({"domains": ["T1"]} if noise else {}) | data
    source = (
        tables["data"]["source"] | ({"subjects": 10, "slices": 3} if noise else {}) | (source or {})
    )
    tables["data"]["source"] = {key: value for key, value in source.items() if value is not None}
    chosen = {"metrics": list(metrics)} if metrics else {}
    tables["evaluate"] = (
        {"samples": 2} | ({"images": 20} if noise else {}) | chosen | (evaluate or {})
    )
    model = load_recipe(tables).check()
    model = model.model_copy(
        update={"post": [Part("post", each.__name__, each, {}) for each in post]}
    )
    held = Data(model.data, method)
    size = model.data.patch or model.data.size
    return Scorer(
        model,
        held,
        method(Geometry(model.data.dims, size, held.channels, held.classes, held.range)),
        CPU,
    )
