"""inference.json of a MONAI bundle: MONAI's own parts in a row, with the run's numbers.

Images are fitted to the network by model.ts itself; here they are turned, resampled, scaled, and all of it back.
"""

from __future__ import annotations

import re
from typing import Any

from gantk.data.intensity import Linear
from gantk.errors import UserError
from gantk.inference.translator import OTHER
from gantk_monai.metadata import lines_of, whole

# The anatomical ends of the axes of an upright volume (planes, rows, columns) in each plane's view.
AXCODES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}


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
