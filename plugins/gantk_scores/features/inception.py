"""The Inception network of the FID and KID papers, in pytorch-fid's version."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gantk.errors import UserError, one_line
from gantk.nets.pretrained import read_state, weights_file

FILE = "pt_inception-2015-12-05-6726825d.pth"


class Inception(nn.Module):
    """pytorch-fid's Inception to its last pooling: 2048 features of pictures (N, 3, H, W) from 0 to
    1, at 299 pixels.

    Weights come from $GANTK_WEIGHTS, torch's cache or the web. If none of these has them, a
    UserError says which file to put where.
    """

    channels = 3
    what = "inception-2048"
    suffix = ""

    def __init__(self, name: str = "inception") -> None:
        from pytorch_fid import inception

        super().__init__()
        cached = Path(torch.hub.get_dir()) / "checkpoints" / FILE
        path = weights_file(FILE) or (cached if cached.is_file() else None)
        download = inception.load_state_dict_from_url
        if path is not None:  # the constructor has no parameter for weights
            inception.load_state_dict_from_url = lambda *_, **__: read_state(path)

        try:
            # the constructor draws weights before it loads them
            with torch.random.fork_rng(devices=[]):
                network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
        except OSError as error:
            raise UserError(
                f"the weights of the feature network 'inception' are missing ({one_line(error)})",
                where="evaluate.metrics",
                remedy=f'put {FILE} into a folder and set GANTK_WEIGHTS to it, or use features = "random"',
            ) from None
        finally:
            inception.load_state_dict_from_url = download

        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous(memory_format=torch.channels_last))[0]
