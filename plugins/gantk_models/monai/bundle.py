"""The exporter "monai": writes a folder of weights, configuration and card that MONAI runs; whole
or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gantk import Direction
from gantk.errors import UserError
from gantk.files import make_folder, whole_folder, write_file
from gantk.method import OTHER, check_networks
from gantk.prepare.module import Prepared, pad_to_size
from gantk.terminal import Say
from gantk_models.monai.config import texts
from gantk_models.monai.torchscript import (
    load_torchscript,
    torchscript_bytes,
    trace_network,
)

LICENSE = """\
The weights in this bundle (models/model.ts) have no licence yet.
Their owner chooses it, within the terms of the training data: replace this file with that licence.

gantk wrote the configuration files and the model card. You may use them under the Apache License, version 2.0:
http://www.apache.org/licenses/LICENSE-2.0
"""


class Monai:
    """Writes a MONAI bundle; `python -m monai.bundle run` translates with it, without gantk."""

    def check(self, out: Path) -> None:
        """Accept any output folder."""

    def write(self, direction: Direction, out: Path, say: Say) -> Path:
        """Write the bundle after checking that its network's outputs equal PyTorch's; returns its
        path.
        """
        if direction.translator.recipe.data.fit == "crop":
            raise UserError(
                "MONAI cannot cut windows like gantk", where="data.fit", remedy="export ONNX"
            )
        if direction.frame.neighbours:
            raise UserError(
                "MONAI cannot give a slice its neighbours",
                where="data.neighbours",
                remedy="export ONNX",
            )

        if direction.translator.intensity[OTHER[direction.letter]].per == "volume":
            raise UserError(
                "a bundle's network sees no whole scan, but each scan has its own intensity mapping",
                where="data.intensity",
                remedy='train with per = "set", or export ONNX',
            )

        content, parity = _network(direction)
        say(f"parity   TorchScript against PyTorch: {parity['line']}")
        files = texts(direction, parity) | {
            "LICENSE": LICENSE.encode(),
            "models/model.ts": content,
        }
        with whole_folder(out, record=True) as made:
            for name, file in files.items():
                make_folder((made / name).parent)
                write_file(made / name, file)

        say(f"written  {out} (5 files); gantk did not run MONAI itself")
        return out


def _network(direction: Direction) -> tuple[bytes, dict[str, Any]]:
    """The bytes of model.ts, and the difference of its network's outputs from PyTorch's."""
    translator = direction.translator
    size = tuple(translator.recipe.data.size)
    check_networks(direction.network.method, size)
    larger, _ = pad_to_size(torch.from_numpy(direction.images), size)
    direction.images = larger.numpy()
    traced = trace_network(direction.network, larger[:1])
    copy = load_torchscript(torchscript_bytes(traced))
    parity = direction.compare_outputs(answers(copy), "TorchScript")

    pipeline = translator.pipelines[direction.letter]
    module = Prepared(pipeline.preparation(pipeline.source), traced)
    return torchscript_bytes(module), parity


def answers(network: nn.Module) -> Any:
    """The network as a function of NumPy arrays."""

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(images)).numpy()

    return answer
