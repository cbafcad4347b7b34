"""Classes as networks see them."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Labels (N,) as rows (N, classes) of one True each.

    torch's own looks at the labels on the host first, whether they are in range; here one that is not has no True.
    """
    return label[:, None] == torch.arange(classes, device=label.device)
