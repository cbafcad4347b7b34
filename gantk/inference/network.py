"""One direction of a trained method as a module of PyTorch, for exports and other programs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.method import check_networks


class Network(nn.Module):
    """Translates images (N, C, *size) to a domain `letter`.

    A float32 copy of the method on the CPU in evaluation mode, without the networks that the
    direction does not use.
    """

    def __init__(self, method: Any, letter: str, images: Tensor):
        super().__init__()
        self.method = copy.deepcopy(method)
        self.letter = letter
        used = set()
        self.method.to("cpu", memory_format=torch.contiguous_format).float().eval().requires_grad_(
            False
        )
        parts = [
            (name, part) for name, child in self.method.named_children() for part in child.modules()
        ]
        hooks = [
            part.register_forward_pre_hook(lambda *_, name=name: used.add(name))
            for name, part in parts
        ]
        with torch.no_grad():
            self(images)

        for hook in hooks:
            hook.remove()

        for name in {name for name, _ in parts} - used:
            unused = getattr(self.method, name)
            delattr(self.method, name)
            # an attribute, but no submodule: the method may read it without running it
            object.__setattr__(self.method, name, unused)

    def forward(self, image: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            try:
                check_networks(self.method, tuple(image.shape[2:]), "image")
            except UserError as error:
                error.where = "image"
                error.remedy = "pad the image, or use model.translate, which does"
                raise error from None
        return self.method.translate(image, self.letter).float()
