"""Translations of BIDS images as BIDS derivatives: names, a sidecar for each image,
dataset_description.json.

BIDS 1.9, "Derivatives": `<source entities>[_space-<label>]_desc-<label>_<suffix>`, a dataset of
DatasetType derivative.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gantk import __version__
from gantk.errors import UserError
from gantk.files import json_object, make_folder, write_output
from gantk.formats.files import sidecar_of, suffix_of
from gantk_bids.names import Named, parse_name, suffix_of_contrast

VERSION = "1.9.0"  # version of BIDS
# entities at the end, in order
LAST = ("space", "split", "recording", "chunk", "seg", "res", "den", "label", "desc")
SOURCE = "raw"  # name of the inputs' dataset in BIDS URIs
DESCRIPTION = "dataset_description.json"


def derivatives(
    files: Sequence[Path], target: Path, frame: Any, model: dict[str, str]
) -> Derivatives | None:
    """Build the `Derivatives` that name and describe translations of these files; None if they are
    not BIDS images.

    They are BIDS images if one lies in its subject's folder, or if all have BIDS names. UserError
    where `target` holds a BIDS dataset that is not a derivative.
    """
    niftis = [file for file in files if suffix_of(file) in (".nii", ".nii.gz")]
    scans = [scan for scan in map(parse_name, niftis) if scan]
    in_subject_folder = any(_root(scan) != scan.path.parent for scan in scans)
    if scans and (in_subject_folder or len(scans) == len(files)):
        return Derivatives(scans, target, frame, model)

    return None


class Derivatives:
    """Chooses the file names of translations below a folder; writes their sidecars and the
    dataset's description.
    """

    def __init__(self, scans: Sequence[Named], target: Path, frame: Any, model: dict[str, str]):
        self.target = target
        self.frame = frame
        self.model = model
        self.written_to = False
        self.root = min(map(_root, scans), key=lambda folder: len(folder.parts))
        # derivatives/ and sourcedata/ have other roots
        inside = [scan for scan in scans if _root(scan) == self.root]
        asked = [suffix_of_contrast(name) or name for name in frame.sources]
        of_source = [scan for scan in inside if any(map(scan.matches, asked))]
        self.scans = {scan.path: scan for scan in of_source or inside}
        self.known = json_object(target / DESCRIPTION)
        if self.known and self.known.get("DatasetType", "raw") != "derivative":
            raise UserError(
                f"'{target}' is a BIDS dataset with raw data; it cannot hold derivatives",
                where="OUTPUT",
                remedy=f"name a separate folder: {target / 'derivatives' / 'gantk'}",
            )

    def name(self, files: Sequence[Path], tail: str, contrast: str) -> str | None:
        """A result's path: `sub-01/ses-1/anat/sub-01_ses-1_space-T1w_desc-gantk_T2w`; None for
        files not of the source.

        A contrast without a BIDS suffix gets the source's suffix, and its name goes to `desc`.
        """
        scan = next((self.scans[file] for file in files if file in self.scans), None)
        if scan is None:
            return None

        usual = suffix_of_contrast(contrast)
        *_, suffix = (usual or scan.suffix).split("_")
        label = f"gantk{tail}"
        if usual != suffix:  # no suffix of its own, or one that needs an entity too
            label = f"gantk{contrast}{tail}"

        entities = {"space": scan.suffix} | scan.entities
        if contrast.upper() != "T1CE":
            entities.pop("ce", None)  # the contrast agent of the input
        entities["desc"] = re.sub("[^A-Za-z0-9]", "", label)
        in_order = sorted(entities, key=lambda key: LAST.index(key) if key in LAST else -1)
        name = "".join(f"{key}-{entities[key]}_" for key in in_order)
        folder = suffix if suffix in ("ct", "pet") else "anat"
        return f"{scan.study}/{folder}/{name}{suffix}"

    def describe(self, facts: dict[str, Any], files: Sequence[Path], grid: Path) -> dict[str, Any]:
        """The sidecar of a result that is made of `files`, on the grid of one of them."""
        beside = json_object(sidecar_of(files[0]))
        stripped = self.frame.stripped or "desc-brain" in files[0].name
        return {
            **facts,
            "SpatialReference": self._uri(grid),
            "Sources": [self._uri(file) for file in files],
            "SkullStripped": bool(beside.get("SkullStripped", stripped)),
            "GeneratedBy": [self._generator()],
        }

    def after_writing(self, path: Path, files: Sequence[Path], contrast: str) -> None:
        """With the first result write dataset_description.json."""
        if self.written_to:
            return
        self.written_to = True
        root = Path(os.path.relpath(self.root.resolve(), self.target.resolve())).as_posix()
        description = {
            "Name": "gantk translations",
            "BIDSVersion": VERSION,
            "DatasetType": "derivative",
        } | self.known
        generators = description.get("GeneratedBy", [])
        others = [each for each in generators if each.get("Name") != "gantk"]
        description["GeneratedBy"] = [*others, self._generator()]
        description["DatasetLinks"] = description.get("DatasetLinks", {}) | {SOURCE: root}
        make_folder(self.target)
        content = json.dumps(description, indent=2) + "\n"
        write_output(self.target / DESCRIPTION, content.encode())

    def _generator(self) -> dict[str, Any]:
        model = self.model
        direction = f"{self.frame.source} to {self.frame.target}"
        text = f"{model['name']}, {direction}, weights sha256 {model['sha256']}"
        if model.get("limits"):
            text += f". {model['limits']}"
        return {"Name": "gantk", "Version": __version__, "Description": text}

    def _uri(self, file: Path) -> str:
        return f"bids:{SOURCE}:{file.relative_to(self.root).as_posix()}"


def _root(scan: Named) -> Path:
    """The root of a scan's dataset: the parent of its subject's folder, or the scan's own folder
    without one.
    """
    subjects = [folder for folder in scan.path.parents if folder.name == scan.subject]
    return subjects[-1].parent if subjects else scan.path.parent
