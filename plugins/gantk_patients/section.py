"""The section `Test patients` of report.html, from patients.json and samples/test of the run folder."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from gantk.formats.nifti import Nifti

HERE = Path(__file__).parent
KINDS = ("input", "output", "truth")
ROWS = 12  # of the table that stand open


def section(record) -> dict[str, Any] | None:
    """What `gantk_report` returns; None where the run has no test patients, or not yet."""
    directions = []
    for key, found in kept(record.path).items():
        cases = [
            case | {"key": f"{key}-{number}", "pictures": pictures(record.path, key, number)}
            for number, case in enumerate(found["cases"])
        ]
        names = list(found["patients"][0]["scores"]) if found["patients"] else []
        source, target = (*record.label(key).split("\u00a0→\u00a0"), "")[:2]
        about = {"label": record.label(key), "source": source, "target": target, "metrics": names, "cases": cases}
        directions.append(found | about)
    if not directions:
        return None
    files = {"folder": HERE, "template": "patients.html.j2", "styles": ["patients.css"], "scripts": ["patients.js"]}
    return files | {"directions": directions, "rows": ROWS}


def kept(run: Path) -> dict[str, Any]:
    """patients.json; {} where it is absent or cannot be read."""
    try:
        found = json.loads((run / "patients.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def pictures(run: Path, key: str, number: int) -> dict[str, dict[str, Any]]:
    """Kind -> a picture for the page's script: a volume's middle plane, in 16 bits between `low` and `high`."""
    found = {}
    for kind in KINDS:
        path = run / "samples" / "test" / f"{key}-{number}-{kind}.nii.gz"
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
