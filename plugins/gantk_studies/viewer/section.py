"""The section `Volumes` of report.html: embeds volumes of samples/test, thinned to keep the page
small.
"""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from gantk import ReportSection
from gantk.formats.image import nifti_of_levels
from gantk.runs.results import StoredVolume
from gantk.runs.schemas import is_inside

HERE = Path(__file__).parent
KINDS = ("input", "output", "truth")
MAX_SIDE_VOXELS = 96  # most voxels along a side; larger volumes are thinned, which the page states
DISPLAY_PERCENTILES = (0.5, 99.5)  # of a volume's values, shown as black and white
MAX_VOLUMES = 2  # volumes on a page
# NiiVue loads its own font from a data URI, and decompresses volumes in a web worker and
# WebAssembly.
POLICY = " 'wasm-unsafe-eval'; worker-src blob:; connect-src data: blob:"


@dataclass(frozen=True)
class EmbeddedVolumes:
    """The volumes of a test patient, as the page's script reads them."""

    patient: str
    label: str  # the direction in words
    files: dict[str, str]  # kind (and "error") -> a gzipped NIfTI file in base64
    thin: int  # one voxel of so many is kept along each side
    source: list[float]  # values shown as black and white
    target: list[float]


@dataclass(frozen=True, kw_only=True)
class VolumesSection(ReportSection):
    """The section `Volumes`."""

    volumes: list[EmbeddedVolumes]


def section(record) -> VolumesSection | None:
    """The section of the report; None where the run folder has no volumes."""
    rows = []
    for key, direction in record.patients.items():
        rows += [(record.label(key), row) for row in direction.volumes]

    embedded = [embed_volumes(record.path, label, row) for label, row in rows[:MAX_VOLUMES]]
    volumes = [each for each in embedded if each]
    if not volumes:
        return None

    return VolumesSection(
        folder=HERE,
        template="volumes.html.j2",
        styles=("volumes.css",),
        scripts=("niivue.umd.js", "volumes.js"),
        policy=POLICY,
        volumes=volumes,
    )


def embed_volumes(run: Path, label: str, volume: StoredVolume) -> EmbeddedVolumes | None:
    """The volumes of a patient, thinned; None where a file is missing."""
    paths = {kind: run / "samples" / "test" / f"{volume.stem}-{kind}.nii.gz" for kind in KINDS}
    if not all(is_inside(run, path) for path in paths.values()):
        return None

    voxels = {}
    try:
        images = {kind: nibabel.load(path) for kind, path in paths.items()}
        for kind, image in images.items():
            voxels[kind] = np.asarray(image.dataobj, dtype=np.float32)
        voxels["error"] = abs(voxels["output"] - voxels["truth"])
    except Exception:  # damaged: the section of the patients reports it
        return None

    thin = -(-max(voxels["truth"].shape) // MAX_SIDE_VOXELS)
    packed = {}
    for kind, each in voxels.items():
        content = gzip.compress(nifti_of_levels(each, images["truth"].affine, thin), 6, mtime=0)
        packed[kind] = base64.b64encode(content).decode("ascii")

    target = np.percentile(voxels["truth"], DISPLAY_PERCENTILES).tolist()
    source = np.percentile(voxels["input"], DISPLAY_PERCENTILES).tolist()
    return EmbeddedVolumes(volume.patient, label, packed, thin, source, target)
