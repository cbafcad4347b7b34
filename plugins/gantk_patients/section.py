"""The section `Test patients` of report.html, from patients.json and samples/test of the run folder."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from gantk.errors import told
from gantk.formats.nifti import Nifti

HERE = Path(__file__).parent
KINDS = ("input", "output", "truth")
ROWS = 12  # of the table that stand open


def section(record) -> dict[str, Any] | None:
    """What `gantk_report` returns; None where the run has no test patients, or not yet."""
    try:
        directions = [_direction(record, key, found) for key, found in kept(record.path).items()]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        record.problems.append(f"patients.json could not be understood: {told(error)}")
        return None
    if not directions:
        return None
    files = {"folder": HERE, "template": "patients.html.j2", "styles": ["patients.css"], "scripts": ["patients.js"]}
    return files | {"directions": directions, "rows": ROWS}


def _direction(record, key: str, found: dict[str, Any]) -> dict[str, Any]:
    cases = [case | {"pictures": pictures(record.path, case["stem"])} for case in found["cases"]]
    source, target = (*record.label(key).split("\u00a0→\u00a0"), "")[:2]
    about = {"label": record.label(key), "source": source, "target": target}
    return found | about | {"metrics": list(found["patients"][0]["scores"]), "cases": cases}


def kept(run: Path) -> dict[str, Any]:
    """patients.json; {} where it is absent or cannot be read."""
    try:
        found = json.loads((run / "patients.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def pictures(run: Path, stem: str) -> dict[str, dict[str, Any]]:
    """Kind -> a picture for the page's script: a volume's middle plane, in 16 bits between `low` and `high`."""
    found = {}
    for kind in KINDS:
        path = run / "samples" / "test" / f"{stem}-{kind}.nii.gz"
        if path.is_file():
            pixels = Nifti().read(path).pixels[0]
            found[kind] = packed(pixels if pixels.ndim == 2 else pixels[len(pixels) // 2])
    return found


def packed(pixels: np.ndarray) -> dict[str, Any]:
    """Pixels (H, W) as the PNG of a data URI: the high byte in red, the low byte in green."""
    low, high = float(pixels.min()), float(pixels.max())
    levels = np.round((pixels - low) / ((high - low) or 1) * 65535).astype(np.uint16)
    bytes_ = np.stack([levels >> 8, levels & 255, np.zeros_like(levels)], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Picture.fromarray(bytes_).save(buffer, "png", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return {"uri": uri, "low": low, "high": high, "height": len(pixels), "width": len(pixels[0])}
