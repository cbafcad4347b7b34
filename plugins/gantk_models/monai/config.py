"""The texts of a bundle, by the templates beside this file: configs/inference.json,
configs/metadata.json and docs/README.md.

MONAI turns and resamples images, and inverts these steps; model.ts itself is `Prepared`: it takes and
returns images of any size in the units of the files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gantk import Direction, __version__, code_span, escape_markdown, score_table
from gantk.method import OTHER, direction_to
from gantk.runs.schemas import read_results

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # JSON and Markdown have rules of their own
)
FILES = {
    "configs/inference.json": "inference.json.j2",
    "configs/metadata.json": "metadata.json.j2",
    "docs/README.md": "README.md.j2",
}
AXCODES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}  # axes of a volume, by its plane


def texts(direction: Direction, parity: dict[str, Any]) -> dict[str, bytes]:
    """The texts of a bundle by the names of their files. `parity`: how far its network's outputs are
    from PyTorch's.
    """
    translator = direction.translator
    recipe = translator.recipe
    frame = direction.frame
    key = direction_to(direction.letter)
    results = read_results(translator.run.path)
    known = {
        name: row for name, row in results.metrics.get(key, {}).items() if row.value is not None
    }
    plain = [re.sub(r"\W", "_", name) for name in frame.sources]
    targets = frame.targets if len(frame.targets) > 1 else ["_".join(frame.targets)]
    spacing = list(recipe.data.spacing or ())
    identity = {"version": __version__, "method": recipe.method.name} | translator.identity()
    values = {
        "source": frame.source,
        "target": frame.target,
        "names": frame.sources,
        "masked": frame.masked,
        "method": recipe.method.name,
        "step": direction.saved.step,
        "data": recipe.data,
        "data_source": recipe.data.source.name,
        "posts": [step.name for step in recipe.post],
        "keys": ["image"] if len(plain) == 1 else plain,
        "globs": [
            f"sorted(glob.glob(os.path.join(@dataset_dir, '*', '*{name}.nii*')))"
            for name in frame.sources
        ],
        "outputs": [re.sub(r"\W", "_", name) for name in targets],
        "axcodes": AXCODES[recipe.data.plane],
        "pixdim": spacing and [-1.0] * (3 - len(spacing)) + spacing,  # -1: unchanged
        "by_slice": recipe.data.dims == 2,
        "batch": recipe.translate.batch,
        "gantk": __version__,
        "monai": "1.5.0",  # for which the configuration is written
        "pytorch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
        "use": (
            f"Research on translating {frame.source} into {frame.target} images. The images are"
            " synthetic: structures may be added, moved or lost. Not a medical device, and not for"
            " diagnosis or treatment."
        ),
        "scores": {name: row.value for name, row in known.items()},
        "score_table": score_table(results.model_copy(update={"metrics": {key: known}})),
        "tensors": [
            _tensor(direction, OTHER[direction.letter], frame.sources),
            _tensor(direction, direction.letter, frame.targets),
        ],
        "about": identity | {"parity": parity},
        "md": escape_markdown,
        "code": code_span,
    }
    return {
        name: TEMPLATES.get_template(template).render(values).encode()
        for name, template in FILES.items()
    }


def _tensor(direction: Direction, letter: str, names: list[str]) -> dict[str, Any]:
    """The entry of one image among the network's data formats."""
    translator = direction.translator
    geometry = translator.method.geometry
    channels = geometry.channels[letter]
    ends = np.array(geometry.range).reshape(-1, *[1] * (geometry.dims + 1))
    native = translator.intensity[letter].inverse(ends.repeat(channels, 1))
    is_ct = names == ["CT"]
    if len(names) != channels:
        names = [f"{names[0]} {k}" for k in range(channels)]

    return {
        "type": "image",
        "format": "hounsfield" if is_ct else "magnitude",
        "modality": "CT" if is_ct else "n/a",
        "num_channels": channels,
        "spatial_shape": ["*"] * geometry.dims,
        "dtype": "float32",
        "value_range": [float(native.min()), float(native.max())],
        "is_patch_data": False,
        "channel_def": {str(k): name for k, name in enumerate(names)},
    }
