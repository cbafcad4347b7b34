"""Builds a bundle's configs/inference.json and configs/metadata.json from MONAI's components and
the run's numbers.

The pipeline turns and resamples images, and inverts these steps; model.ts itself is `Prepared`: it
takes and returns images of any size in the units of the files.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from gantk import Direction, __version__
from gantk.method import OTHER, direction_to
from gantk.runs.results import Results
from gantk.runs.schemas import read_results

# axes of a volume sliced in each plane
AXCODES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
# versions that the configuration is written for
VERSIONS = {"monai": "1.5.0", "pytorch-ignite": "0.4.11"}
MODALITIES = {"CT": "CT", "PET": "PT", "US": "US", "CBCT": "CT"}
MR = re.compile(r"(T1|T2|PD|FLAIR|DWI|ADC|SWI|MR)", re.IGNORECASE)


def inference(direction: Direction) -> dict[str, Any]:
    """The content of inference.json, for `python -m monai.bundle run --config_file
    configs/inference.json`.
    """
    names = direction.frame.sources
    keys = ["image"] if len(names) == 1 else [re.sub(r"\W", "_", name) for name in names]
    files = "$[{'image': i} for i in sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*')))]"
    if len(keys) > 1:
        found = ", ".join(
            f"sorted(glob.glob(os.path.join(@dataset_dir, '*', '*{name}.nii*')))" for name in names
        )
        files = f"$[dict(zip({keys}, files)) for files in zip({found})]"

    inferer = part("SimpleInferer")
    model = direction.translator.recipe
    if model.data.dims == 2 and not model.data.neighbours:
        batch = model.translate.batch
        inferer = part("SliceInferer", roi_size=[-1, -1], sw_batch_size=batch, spatial_dim=0)

    return {
        "imports": ["$import glob", "$import numpy", "$import os"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "datalist": files,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": part(
            "torch.jit.load", f="$@bundle_root + '/models/model.ts'", map_location="@device"
        ),
        "network": "$@network_def.eval()",
        "preprocessing": part("Compose", transforms=_preprocessing(direction, keys)),
        "dataset": part("Dataset", data="@datalist", transform="@preprocessing"),
        "dataloader": part(
            "DataLoader", dataset="@dataset", batch_size=1, shuffle=False, num_workers=0
        ),
        "inferer": inferer,
        "postprocessing": part("Compose", transforms=_postprocessing(direction, keys)),
        "handlers": [part("StatsHandler", iteration_log=False)],
        "evaluator": part(
            "SupervisedEvaluator",
            device="@device",
            val_data_loader="@dataloader",
            network="@network",
            inferer="@inferer",
            postprocessing="@postprocessing",
            val_handlers="@handlers",
            amp=False,
        ),
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$@evaluator.run()"],
    }


def part(target: str, **options: Any) -> dict[str, Any]:
    """The configuration of one of MONAI's components."""
    return {"_target_": target, **options}


def _preprocessing(direction: Direction, keys: list[str]) -> list[dict[str, Any]]:
    data = direction.translator.recipe.data
    steps = [part("LoadImaged", keys=keys), part("EnsureChannelFirstd", keys=keys)]
    steps.append(part("Orientationd", keys=keys, axcodes=AXCODES[data.plane]))
    if data.spacing:
        pixdim = [-1.0] * (3 - len(data.spacing)) + list(data.spacing)  # -1: unchanged
        steps.append(part("Spacingd", keys=keys, pixdim=pixdim, mode="bilinear"))

    if len(keys) > 1:
        steps.append(part("ConcatItemsd", keys=keys, name="image"))

    return [*steps, part("EnsureTyped", keys="image", dtype="$torch.float32")]


def _postprocessing(direction: Direction, keys: list[str]) -> list[dict[str, Any]]:
    names = direction.frame.targets
    inverse = {
        "transform": "@preprocessing",
        "orig_keys": keys[0],
        "nearest_interp": False,
        "to_tensor": True,
    }
    steps = [part("Invertd", keys="pred", **inverse)]
    made = ["pred"]
    tails = ["_".join(names)]
    if len(names) > 1:
        tails = [re.sub(r"\W", "_", name) for name in names]
        steps.append(part("SplitDimd", keys="pred", dim=0, output_postfixes=tails))
        made = [f"pred_{tail}" for tail in tails]

    for key, tail in zip(made, tails, strict=True):
        save = part(
            "SaveImaged",
            keys=key,
            output_dir="@output_dir",
            output_postfix=re.sub(r"\W", "_", tail),
        )
        save |= {"data_root_dir": "@dataset_dir", "separate_folder": False, "resample": False}
        steps.append(save | {"output_ext": ".nii.gz", "output_dtype": "$numpy.float32"})

    return steps


def metadata(direction: Direction, about: dict[str, Any]) -> dict[str, Any]:
    """The content of metadata.json: all mandatory keys of the MONAI Bundle Specification, and
    `about` under "gantk".
    """
    translator = direction.translator
    frame = direction.frame
    task = f"Translation of {frame.source} into {frame.target} images"
    method = translator.recipe.method.name
    (rows,) = scores(direction).metrics.values()
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by gantk {__version__}"},
        "monai_version": VERSIONS["monai"],
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"pytorch-ignite": VERSIONS["pytorch-ignite"]},
        "supported_apps": {},
        "name": f"{frame.source} to {frame.target}, {method}",
        "task": task,
        "description": f"{task} by the method {method}, trained with gantk.",
        "authors": "not stated",
        "copyright": "not stated",
        "data_source": f"not stated (gantk source '{translator.recipe.data.source.name}')",
        "data_type": "nibabel",
        "eval_metrics": {name: score.value for name, score in rows.items()},
        "intended_use": (
            f"Research on translating {frame.source} into {frame.target} images. The images are"
            " synthetic: structures may be added, moved or lost. Not a medical device, and not for"
            " diagnosis or treatment."
        ),
        "references": [],
        "network_data_format": {
            "inputs": {"image": _tensor(direction, OTHER[direction.letter], frame.sources)},
            "outputs": {"pred": _tensor(direction, direction.letter, frame.targets)},
        },
        "gantk": {"version": __version__, "method": method} | translator.identity() | about,
    }


def scores(direction: Direction) -> Results:
    """The run's results with the scores of this direction alone under `metrics`, if it has any."""
    key = direction_to(direction.letter)
    results = read_results(direction.translator.run.path)
    own = results.metrics.get(key, {})
    known = {name: score for name, score in own.items() if score.value is not None}
    return results.model_copy(update={"metrics": {key: known}})


def _tensor(direction: Direction, letter: str, names: list[str]) -> dict[str, Any]:
    translator = direction.translator
    data = translator.recipe.data
    geometry = translator.method.geometry
    channels = geometry.channels[letter] // (2 * data.neighbours + 1)
    ends = np.array(geometry.range).reshape(-1, *[1] * (data.dims + 1))
    native = translator.intensity[letter].inverse(ends.repeat(channels, 1))
    kinds = {MODALITIES.get(name.upper(), "MR" if MR.match(name) else "n/a") for name in names}
    modality = kinds.pop() if len(kinds) == 1 else "n/a"
    if len(names) != channels:
        if channels == 3:
            names = ["red", "green", "blue"]
        else:
            names = [f"{names[0]} {k}" for k in range(channels)]

    return {
        "type": "image",
        "format": "hounsfield" if modality == "CT" else "magnitude",
        "modality": modality,
        "num_channels": channels,
        "spatial_shape": ["*"] * (3 if data.dims == 3 or data.neighbours else 2),
        "dtype": "float32",
        "value_range": [float(native.min()), float(native.max())],
        "is_patch_data": False,
        "channel_def": {str(k): name for k, name in enumerate(names)},
    }
