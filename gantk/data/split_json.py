"""The content of split.json: the images of each set of a run, and how they were split."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

RECORDED_SETS = ("train", "validation", "test", "set_aside")


class Record(BaseModel):
    """A table of split.json."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class RecordedImage(Record):
    """An image of a set in split.json."""

    domain: str
    """Letter of the domain: `a`, `b` or `image`."""
    key: str
    """Name of the image, unique in its domain."""
    subject: str | None
    """Name of the patient; empty or null if it is unknown."""
    pair: str | None
    """Name that the two images of a registered pair share; null without a pair."""
    path: str | None
    """Path of the file; null if the image is not read from a file."""
    sha256: str | None = None
    """SHA-256 of the file."""
    all_sha256: str | None = None
    """Hash of all files that are read for the image, where these are several."""
    label: str | None = None
    """Class of the image, with data.labels."""
    missing: list[str] | None = None
    """Contrasts that the patient lacks."""

    @property
    def id(self) -> tuple[str, str]:
        """The id of its record."""
        return self.domain, self.key


class RecordedSets(Record):
    """The sets of split.json, and how they were made."""

    model_config = ConfigDict(extra="allow")  # what else is needed to repeat the split

    by: str | None
    """How images were assigned: `patient`, `block`, `image`, `folders` or `file`."""
    consequences: list[str] | None = None
    """Consequences of the split for the scores, in words."""
    train: list[RecordedImage]
    """Training images."""
    validation: list[RecordedImage]
    """Validation images."""
    test: list[RecordedImage]
    """Held-out test images."""
    set_aside: list[RecordedImage] | None = None
    """Images of the training set that the method does not use."""
    left_out: list[Annotated[list[str], Field(min_length=2, max_length=3)]] | None = None
    """Domain, key and SHA-256 of each image that is in no set; earlier runs have no SHA-256."""

    def by_name(self) -> dict[str, list[RecordedImage]]:
        """The images of each set, by its name."""
        return {name: getattr(self, name) or [] for name in RECORDED_SETS}


class RecordedSplit(Record):
    """The content of split.json."""

    how: str | None = None
    """How the split was made, in words, with the number of images of each set."""
    splits: RecordedSets
    """The sets, and how they were made."""
    catalog: list[dict[str, Any]] | None = None
    """Every image that the source found, with its files relative to the source's folder; a resume
    reads these and lists no folder. Null where images are computed.
    """
    leakage_allowed: str | None = None
    """The leaks that `--allow-leakage` accepted; null without leaks."""
    warnings: list[str] | None = None
    """The warnings about the data at the start, repeated by a resume."""
    notes: list[str] | None = None
    """All notes and warnings that were printed at the start."""
