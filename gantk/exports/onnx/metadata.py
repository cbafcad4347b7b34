"""The schema and the reader of the metadata that gantk stores in a .onnx file beside its network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from gantk.errors import expect_format
from gantk.inference.frame import Frame, Name, Sides
from gantk.inference.windows import Sides as NetworkSides
from gantk.plugin.spec import Share, check
from gantk.runs.schemas import Values

FORMAT = 1  # raised when an older gantk could no longer read the metadata that this one writes
MAX_METADATA_CHARACTERS = 2**20  # most characters of the metadata


class Entry(BaseModel):
    """A table of the metadata: known keys have a type and range, keys of later versions are
    ignored.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Free(Entry):
    """Whether the network accepts any number of images, and which other sizes (None: only its own)."""

    batch: bool
    sizes: NetworkSides | None


class Mappings(Entry):
    """States of the intensity mappings, which are checked when the mappings are built from them."""

    source: dict[str, Any]
    target: dict[str, Any]


class Trained(Entry):
    """The hash of the weights in the file, and the step that they were saved at."""

    sha256: Name
    step: int = 0


class Metadata(Entry):
    """All that a translation needs beside the network; the exporter writes it, and `read_metadata`
    reads it.
    """

    method: Name
    trained: Trained
    intensity: Mappings
    window: Sides
    direction: Literal["a_to_b", "b_to_a"]
    label: Name | None = None  # the class that the network translates
    frame: Frame
    overlap: Share
    free: Free

    @property
    def input_size(self) -> tuple[int, ...]:
        """(1, C, *window): the size of one input of the network."""
        return 1, self.frame.channels * (2 * self.frame.neighbours + 1), *self.window


def read_metadata(text: str, path: Path) -> Metadata:
    """Parse the metadata and check the type and range of every key that a translation needs.

    UserError where the format is newer than this gantk; ValueError or a UserError with the key where
    something else is wrong.
    """
    if len(text) > MAX_METADATA_CHARACTERS:
        raise ValueError(f"its metadata have more than {MAX_METADATA_CHARACTERS:,} characters")

    found = json.loads(text)
    if not isinstance(found, dict) or type(found.get("format")) is not int:
        raise ValueError("format: it should be a whole number")

    expect_format(f"'{path}'", found["format"], FORMAT, "format")
    known = {key: each for key, each in found.items() if key in Metadata.model_fields}
    meta = check(Metadata, known, "the file")
    for domain, values in meta.frame.values.items():
        check(Values, values, f"frame.values.{domain}")
    dims = {len(meta.window), len(meta.frame.size), meta.frame.dims}
    problems = {
        "frame.dims, frame.size and window have different numbers of sides": len(dims) > 1,
        "frame.range: its start should be below its end": (
            not meta.frame.range[0] < meta.frame.range[1]
        ),
        "overlap: it should be 0.9 at most": meta.overlap > 0.9,
        "frame.source and frame.channels differ": (
            len(meta.frame.sources) not in (1, meta.frame.channels)
        ),
        "frame.values: give both domains, or none": (
            meta.frame.values.keys() not in ({"source", "target"}, set())
        ),
    }
    for problem, is_so in problems.items():
        if is_so:
            raise ValueError(problem)

    return meta
