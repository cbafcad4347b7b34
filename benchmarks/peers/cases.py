"""The cases of the comparison: method, image size, batch and networks, with gantk's recipe for
each.
"""

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

from gantk.errors import UserError, did_you_mean

# image side -> halvings down to one pixel: the reference's unet_128 and unet_256
DEPTHS = {128: 7, 256: 8}
# windows in a batch, overlap of neighbouring windows as a share of their side
WINDOWS = 4
OVERLAP = 0.25
BLOCKS = {"resnet9": 9, "resnet6": 6, "resnet6-shallow": 6}
PEERS = ("reference", "cut", "monai", "konfai")


@dataclass(frozen=True)
class Case:
    """One comparison of seconds per training step, or per translation by windows."""

    name: str
    method: Literal["cyclegan", "pix2pix", "cut"]
    generator: Literal["unet", "resnet9", "resnet6", "resnet6-shallow"]
    size: int  # image side in pixels
    batch: int = 1
    width: int = 64  # filters of the generator's first level
    d_width: int = 64  # filters of the discriminator's first level
    window: int = 0  # window side in pixels: times translation by windows; 0: times training steps
    equal: bool = False  # MONAI's U-Net is as wide as it must be for no fewer weights than gantk's
    costly: bool = False  # takes minutes on a CPU: runs only if --cases names it

    @property
    def paired(self) -> bool:
        return self.method == "pix2pix"

    @property
    def summary(self) -> str:
        if (self.width, self.d_width) == (64, 64):
            filters = ""
        else:
            filters = f", {self.width}/{self.d_width} filters"
        windows = f", translated in windows of {self.window}" if self.window else ""
        return (
            f"{self.method}, {self.generator}, {self.size} px, batch {self.batch}{filters}{windows}"
        )

    def tables(self) -> dict[str, Any]:
        """gantk's recipe with the peers' published method settings and layers, and gantk's defaults
        for the rest.
        """
        return {
            "format": 1,
            "summary": self.summary,
            "method": METHODS[self.method]
            | {"generator": self._generator(), "discriminator": self._discriminator()},
            "data": {
                "source": {"name": "phantom", "subjects": 10, "slices": 4},
                "domains": ["T1", "T2"],
                "size": [self.size, self.size],
                "split": {"test": 0.2, "validation": 0.0},
                "workers": 0,  # batches are handed over ready: reading them is no part of a step
            }
            | ({"patch": [self.window, self.window]} if self.window else {}),
            "train": {
                "steps": 1_000_000,
                "batch": self.batch,
                "optimizer": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
            },
            "translate": {"batch": WINDOWS, "overlap": OVERLAP},
        }

    def _generator(self) -> dict[str, Any]:
        if self.generator == "unet":
            if self.paired:
                drop = {"norm": "batch", "dropout": 0.5, "bias": False}
            else:
                drop = {"bias": True}
            depth = DEPTHS[self.window or self.size]
            return {"name": "unet", "width": self.width, "depth": depth, "up": "transpose"} | drop
        downs = {"downs": 1} if self.generator.endswith("shallow") else {}
        return {
            "name": "resnet",
            "width": self.width,
            "blocks": BLOCKS[self.generator],
            "bias": True,
        } | downs

    def _discriminator(self) -> dict[str, Any]:
        return {"name": "patchgan", "width": self.d_width} | (
            {"norm": "batch"} if self.paired else {}
        )


METHODS: dict[str, dict[str, Any]] = {
    "cyclegan": {
        "name": "cyclegan",
        "adversarial": "ls",
        "cycle": 10.0,
        "identity": 5.0,
        "pool": 50,
    },
    "pix2pix": {"name": "pix2pix", "adversarial": "bce", "l1": 100.0},
    "cut": {
        "name": "cut",
        "adversarial": "ls",
        "nce": 1.0,
        "nce_identity": True,
        "layers": [0, 2, 3, 4, 5],
    },
}

CASES = {
    case.name: case
    for case in (
        Case("cyclegan-128-unet", "cyclegan", "unet", 128),
        Case("cyclegan-128-resnet9", "cyclegan", "resnet9", 128),
        Case("cyclegan-128-unet-equal", "cyclegan", "unet", 128, equal=True),
        Case("cyclegan-128-unet-equal-b4", "cyclegan", "unet", 128, 4, equal=True, costly=True),
        Case("cyclegan-128-shallow", "cyclegan", "resnet6-shallow", 128, width=32, d_width=16),
        Case("pix2pix-128-unet", "pix2pix", "unet", 128),
        Case("cut-128-resnet9", "cut", "resnet9", 128),
        Case("windows-512-unet", "cyclegan", "unet", 512, width=16, d_width=16, window=128),
        Case("cyclegan-256-unet", "cyclegan", "unet", 256, costly=True),
        Case("cyclegan-256-resnet9", "cyclegan", "resnet9", 256, costly=True),
        Case("pix2pix-256-unet", "pix2pix", "unet", 256, costly=True),
        Case("cut-256-resnet9", "cut", "resnet9", 256, costly=True),
        Case("cyclegan-128-unet-b8", "cyclegan", "unet", 128, 8, costly=True),
        Case("cyclegan-128-resnet9-b8", "cyclegan", "resnet9", 128, 8, costly=True),
        Case("cyclegan-256-unet-b8", "cyclegan", "unet", 256, 8, costly=True),
        Case("cyclegan-256-resnet9-b8", "cyclegan", "resnet9", 256, 8, costly=True),
    )
}


def chosen(patterns: list[str]) -> list[Case]:
    """The cases whose names fit any of the patterns, in their own order; none given: all but the
    costly ones.
    """
    if not patterns:
        return [case for case in CASES.values() if not case.costly]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in CASES):
            remedy = did_you_mean(pattern, CASES)
            raise UserError(
                f"no case fits '{pattern}'", where="--cases", allowed=CASES, remedy=remedy
            )
    return [
        case for case in CASES.values() if any(fnmatch(case.name, pattern) for pattern in patterns)
    ]
