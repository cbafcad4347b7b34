"""What a loss takes: a loss declares it with its attribute `takes`, and a recipe that names the loss
in another place is refused.
"""

from __future__ import annotations

from typing import Any

from gantk.errors import UserError

# value of `takes` -> its words in messages
LOSS_INPUTS = {
    "images": "output and target",  # two batches of images of one domain
    "source": "output and input",  # two batches of images of two domains
    "features": "lists of feature maps",  # of output and target, one map per layer
    "logits": "logits",  # of a discriminator, for real and generated images
    "matches": "output and matched images",  # similar images of the other domain
}


def loss_inputs(loss: Any) -> tuple[str, ...]:
    """What a loss (class, function or instance) takes, as keys of LOSS_INPUTS.

    The attribute `takes` is one of them or several. Without it, a loss with the methods `generator`
    and `discriminator` takes logits, one with `companions` takes matched images, and any other
    callable takes two batches of images: output and target, or output and input.

    Raises:
        UserError: `takes` has another value.
    """
    declared = getattr(loss, "takes", None)
    if declared is not None:
        inputs = (declared,) if isinstance(declared, str) else tuple(declared)
        unknown = [each for each in inputs if each not in LOSS_INPUTS]
        if unknown or not inputs:
            raise UserError(f"`takes` cannot be {declared!r}", allowed=LOSS_INPUTS)
        return inputs

    names = dir(loss)  # a class has no __call__ of its metaclass there
    if "generator" in names and "discriminator" in names:
        return ("logits",)
    if "companions" in names:
        return ("matches",)
    return ("images", "source") if "__call__" in names else ()


def in_words(inputs: tuple[str, ...]) -> str:
    """`output and target, or output and input`."""
    return ", or ".join(LOSS_INPUTS[each] for each in inputs) or "nothing"
