"""What a MONAI bundle says of its model: metadata.json, by the MONAI Bundle Specification."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk import __version__
from gantk.data.intensity import PerChannel
from gantk.inference.translator import OTHER

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
MONAI, IGNITE = "1.5.0", "0.4.11"  # the versions that the configuration is written for
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MODALITIES = {"CT": "CT", "PET": "PT", "US": "US", "CBCT": "CT"}
MR = re.compile(r"(T1|T2|PD|FLAIR|DWI|ADC|SWI|MR)", re.IGNORECASE)


def intended_use(direction: Any) -> str:
    """What the model is for, and what it is not for."""
    frame = direction.translator.frame(direction.letter)
    return (
        f"Research on translating {frame.source} into {frame.target} images. The images are synthetic: structures may "
        "be added, moved or lost. Not a medical device, and not for diagnosis or treatment."
    )


def metadata(direction: Any, pictures: bool, tolerance: float, parity: dict[str, Any]) -> dict[str, Any]:
    """metadata.json: every mandatory key of the specification, and gantk's own under "gantk"."""
    translator, frame = direction.translator, direction.translator.frame(direction.letter)
    task = f"Translation of {frame.source} into {frame.target} images"
    method = translator.model.method.name
    packages = {"pytorch-ignite": IGNITE} | _version("pillow" if pictures else "nibabel")
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by gantk {__version__}"},
        "monai_version": MONAI,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": packages,
        "supported_apps": {},
        "name": f"{frame.source} to {frame.target}, {method}",
        "task": task,
        "description": f"{task} by the method {method}, trained with gantk. {_seen(direction)}",
        "authors": "not stated",
        "copyright": "not stated",
        "data_source": f"not stated (gantk source '{translator.model.data.source.name}')",
        "data_type": "picture" if pictures else "nibabel",
        "eval_metrics": scores(direction),
        "intended_use": intended_use(direction),
        "references": [],
        "network_data_format": {
            "inputs": {"image": _tensor(direction, OTHER[direction.letter], pictures)},
            "outputs": {"pred": _tensor(direction, direction.letter, pictures)},
        },
        "gantk": direction.state() | {"tolerance": tolerance, "parity": parity},
    }


def scores(direction: Any) -> dict[str, float]:
    """The run's own test scores of this direction, by metric; none where it has not been evaluated."""
    rows = evaluation(direction).get("metrics", {}).get(f"{OTHER[direction.letter]}_to_{direction.letter}", {})
    return {name: row["value"] for name, row in rows.items() if isinstance(row, dict) and row.get("value") is not None}


def evaluation(direction: Any) -> dict[str, Any]:
    """metrics.json of the run; empty where there is none."""
    path = direction.translator.checkpoint.parent.parent / "metrics.json"
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def shows_pictures(files: list[Path]) -> bool:
    """Whether a run was trained on picture files, which have no anatomical axes."""
    return bool(files) and all(path.suffix.lower() in PICTURES for path in files)


def lines_of(mapping: Any) -> list[Any]:
    """The mappings of each contrast: one, unless there are several."""
    return mapping.lines if isinstance(mapping, PerChannel) else [mapping]


def whole(direction: Any) -> bool:
    """Whether model.ts takes an image of any size as it is; else MONAI cuts windows for it."""
    return direction.translator.model.data.fit != "crop"


def _seen(direction: Any) -> str:
    model = direction.translator.model
    sides = " x ".join(map(str, direction.translator.method.geometry.size))
    what = "volumes" if model.data.dims == 3 else f"{model.data.plane} slices or pictures"
    around = f", each with {model.data.neighbours} neighbours on either side" if model.data.neighbours else ""
    return f"It sees {what} at {sides}{around}."


def _tensor(direction: Any, letter: str, pictures: bool) -> dict[str, Any]:
    translator = direction.translator
    names, model = translator.contrasts(letter), translator.model
    channels = translator.method.geometry.channels[letter] // (2 * model.data.neighbours + 1)
    if len(names) != channels:
        names = ["red", "green", "blue"] if channels == 3 else [f"{names[0]} {k}" for k in range(channels)]
    kinds = {_modality(name) for name in translator.contrasts(letter)}
    modality = kinds.pop() if len(kinds) == 1 else "n/a"
    takes_volumes = model.data.dims == 3 or model.data.neighbours > 0
    anything = ["*"] * (3 if takes_volumes else 2)
    return {
        "type": "image",
        "format": "hounsfield" if modality == "CT" and not pictures else "magnitude",
        "modality": modality,
        "num_channels": channels,
        "spatial_shape": anything if whole(direction) else list(translator.method.geometry.size),
        "dtype": "float32",
        "value_range": list(translator.method.geometry.range),
        "is_patch_data": not whole(direction),
        "channel_def": {str(k): name for k, name in enumerate(names)},
    }


def _modality(name: str) -> str:
    return MODALITIES.get(name.upper(), "MR" if MR.match(name) else "n/a")


def _version(package: str) -> dict[str, str]:
    try:
        return {package: version(package)}
    except PackageNotFoundError:
        return {}
