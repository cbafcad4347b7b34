"""What a MONAI bundle says of its model: metadata.json and inference.json, by the MONAI Bundle Specification.

The parts of inference.json are MONAI's own, with the run's numbers; model.ts fits images to the network by itself.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.data.channels import PerChannel
from gantk.data.intensity import Linear
from gantk.errors import UserError
from gantk.inference import OTHER
from gantk.runfolder import version_of_gantk

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
MONAI, IGNITE = "1.5.0", "0.4.11"  # the versions that the configuration is written for
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
# The anatomical ends of the axes of an upright volume (planes, rows, columns) in each plane's view.
AXCODES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
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
        "changelog": {"0.1.0": f"exported by gantk {version_of_gantk()}"},
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


def inference(direction: Any, pictures: bool) -> dict[str, Any]:
    """inference.json: what `python -m monai.bundle run --config_file configs/inference.json` does."""
    keys = _keys(direction, OTHER[direction.letter])
    return {
        "imports": ["$import glob", "$import numpy", "$import os"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "datalist": _datalist(direction, keys, pictures),
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "torch.jit.load",
            "f": "$@bundle_root + '/models/model.ts'",
            "map_location": "@device",
        },
        "network": "$@network_def.eval()",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(direction, keys, pictures)},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": _inferer(direction, pictures),
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(direction, keys, pictures)},
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$@evaluator.run()"],
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


def _keys(direction: Any, letter: str) -> list[str]:
    """One key for each file of an input: "image", or the contrasts' names where there are several."""
    names = direction.translator.contrasts(letter)
    return ["image"] if len(names) == 1 else [re.sub(r"\W", "_", name) for name in names]


def _datalist(direction: Any, keys: list[str], pictures: bool) -> str:
    ending = ".png" if pictures else ".nii*"
    if len(keys) == 1:
        return f"$[{{'image': i}} for i in sorted(glob.glob(os.path.join(@dataset_dir, '*{ending}')))]"
    names = direction.translator.contrasts(OTHER[direction.letter])
    found = ", ".join(f"sorted(glob.glob(os.path.join(@dataset_dir, '*', '*{name}{ending}')))" for name in names)
    return f"$[dict(zip({keys}, files)) for files in zip({found})]"


def _preprocessing(direction: Any, keys: list[str], pictures: bool) -> list[dict[str, Any]]:
    data = direction.translator.model.data
    steps = [{"_target_": "LoadImaged", "keys": keys}, {"_target_": "EnsureChannelFirstd", "keys": keys}]
    if pictures:  # MONAI reads pictures column by column
        steps.append({"_target_": "Transposed", "keys": keys, "indices": [0, 2, 1]})
    else:
        steps.append({"_target_": "Orientationd", "keys": keys, "axcodes": AXCODES[data.plane]})
        if data.spacing:
            pixdim = [-1.0] * (3 - len(data.spacing)) + list(data.spacing)  # -1: as it is
            steps.append({"_target_": "Spacingd", "keys": keys, "pixdim": pixdim, "mode": "bilinear"})
    source = lines_of(direction.translator.intensity[OTHER[direction.letter]])
    for key, line in zip(keys, source, strict=True):
        steps += scaling(key, line, data.dims == 3 or pictures)
    if len(keys) > 1:
        steps.append({"_target_": "ConcatItemsd", "keys": keys, "name": "image"})
    return [*steps, {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"}]


def scaling(key: str, line: Any, image_is_scan: bool) -> list[dict[str, Any]]:
    """MONAI's transforms for one contrast's intensity mapping; UserError where it has none that does the same.

    `image_is_scan` says whether an image of the network is a whole scan: to MONAI, which scales before it cuts slices,
    per = "image" is then the same as "volume".
    """
    state, (start, end) = line.state(), line.range
    if isinstance(line, Linear) and line.per == "set":
        low, high = state["fitted"]
        return [_range(key, low, high, start, end)]
    own = line.per == "volume" or (line.per == "image" and image_is_scan)
    plain = isinstance(line, Linear) and own and not state.get("foreground")
    if plain and line.name == "percentile":
        scale = {"lower": state["low"], "upper": state["high"], "b_min": start, "b_max": end}
        clip = {"clip": False, "channel_wise": True}
        return [{"_target_": "ScaleIntensityRangePercentilesd", "keys": key, **scale, **clip}]
    if plain and line.name == "minmax":
        return [{"_target_": "ScaleIntensityd", "keys": key, "minv": start, "maxv": end, "channel_wise": True}]
    if plain and line.name == "zscore":
        normal = {"_target_": "NormalizeIntensityd", "keys": key, "nonzero": False, "channel_wise": True}
        return [normal, _range(key, -state["spread"], state["spread"], start, end)]
    what = f"MONAI has no transform for the intensity mapping '{line.name}' with per = \"{line.per}\""
    if isinstance(line, Linear) and state.get("foreground"):
        what += " and a foreground"
    raise UserError(what, where="data.intensity", remedy='train with per = "set", or export ONNX')


def _range(key: str, low: float, high: float, start: float, end: float) -> dict[str, Any]:
    ends = {"a_min": low, "a_max": high, "b_min": start, "b_max": end}
    return {"_target_": "ScaleIntensityRanged", "keys": key, **ends, "clip": False}


def _inferer(direction: Any, pictures: bool) -> dict[str, Any]:
    model = direction.translator.model
    slices = model.data.dims == 2 and not pictures and not model.data.neighbours
    batch = {"sw_batch_size": model.translate.batch}
    if whole(direction):
        return {"_target_": "SliceInferer", "roi_size": [-1, -1], **batch, "spatial_dim": 0} if slices else {
            "_target_": "SimpleInferer"
        }  # fmt: skip
    roi = list(direction.translator.method.geometry.size)
    blend = {"overlap": model.translate.overlap, "mode": "gaussian", "sigma_scale": 0.25}
    edge = {"padding_mode": "constant", "cval": direction.translator.low}
    if slices:
        return {"_target_": "SliceInferer", "roi_size": roi, **batch, **blend, **edge, "spatial_dim": 0}
    return {"_target_": "SlidingWindowInferer", "roi_size": roi, **batch, **blend, **edge}


def _postprocessing(direction: Any, keys: list[str], pictures: bool) -> list[dict[str, Any]]:
    target = lines_of(direction.target)
    names = direction.translator.contrasts(direction.letter)
    steps: list[dict[str, Any]] = [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": keys[0],
            "nearest_interp": False,
            "to_tensor": True,
        }
    ]
    made = ["pred"]
    if len(target) > 1:
        tails = [re.sub(r"\W", "_", name) for name in names]
        steps.append({"_target_": "SplitDimd", "keys": "pred", "dim": 0, "output_postfixes": tails})
        made = [f"pred_{tail}" for tail in tails]
    for key, line, name in zip(made, target, names if len(target) > 1 else ["+".join(names)], strict=True):
        if not isinstance(line, Linear):
            what = f"MONAI has no transform for the way back of the intensity mapping '{line.name}'"
            raise UserError(what, where="data.intensity", remedy='use "percentile", "zscore" or "window", or ONNX')
        low, high = line.state()["fitted"]
        steps.append(_range(key, *line.range, low, high))
        steps += _saving(key, re.sub(r"\W", "_", name), high, pictures)
    return steps


def _saving(key: str, tail: str, high: float, pictures: bool) -> list[dict[str, Any]]:
    save = {"_target_": "SaveImaged", "keys": key, "output_dir": "@output_dir", "output_postfix": tail}
    save |= {"data_root_dir": "@dataset_dir", "separate_folder": False, "resample": False}
    if not pictures:
        return [save | {"output_ext": ".nii.gz", "output_dtype": "$numpy.float32"}]
    top, kind = (255, "uint8") if high <= 255 else (65535, "uint16")
    rounded = {"_target_": "Lambdad", "keys": key, "func": f"$lambda x: x.round().clamp(0, {top})"}
    return [rounded, save | {"output_ext": ".png", "output_dtype": f"$numpy.{kind}"}]


def _version(package: str) -> dict[str, str]:
    try:
        return {package: version(package)}
    except PackageNotFoundError:
        return {}
