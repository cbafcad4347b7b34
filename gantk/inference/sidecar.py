"""What a generated image of a patient is made of: a JSON file beside it, and a line for the user."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantk import __version__
from gantk.formats.image import Image
from gantk.inference.jobs import Output
from gantk.inference.notes import InputCheck, Note


@dataclass(frozen=True)
class ResultFile:
    """A result as its file will hold it, with what is said of it: the description, the notes in its
    header, and the JSON file beside it.
    """

    output: Output
    image: Image
    given: Mapping[str, InputCheck]  # of the images that it is made of, by their contrasts
    sources: Sequence[Path]  # the files of these
    model: Mapping[str, str]  # as of `Model.identity`
    said: Sequence[Note] = ()  # about the result
    tested: str = ""  # how good the model is

    @property
    def path(self) -> Path:
        """The file."""
        return self.output.path

    @property
    def shown(self) -> str:
        """What the image shows."""
        is_uncertainty = self.output.tail == "_uncertainty"
        return f"uncertainty of {self.output.contrast}" if is_uncertainty else self.output.contrast

    @property
    def by(self) -> str:
        """The model and its weights."""
        return f"{self.model['name']}, weights sha256 {self.model['sha256']}"

    @property
    def mark(self) -> str:
        """What a description says of inputs that do not fit the training data."""
        fits = {checked.fits for checked in self.given.values()}
        if "no" in fits:
            return "input does not fit"
        return "input fits partly" if "partly" in fits else ""

    def description(self) -> str:
        """The image in one line of its header."""
        model = self.model["name"].partition(" (")[0]
        return ", ".join(filter(None, (self.shown, self.mark, f"{model} {__version__}")))

    def lines(self) -> tuple[str, ...]:
        """Whether the images fit the training data, and why not; and the model."""
        return (*(line for each in self.given.values() for _, line in each.said), self.by)

    def facts(self) -> dict[str, Any]:
        """What the JSON file says, without the names of files."""
        taken_for = [
            f"what was taken for {name}" if checked.fits == "no" else name
            for name, checked in self.given.items()
        ]
        description = (
            f"synthetic {self.shown}, generated from {', '.join(taken_for)} by a neural network; not"
            " acquired"
        )
        facts: dict[str, Any] = {
            "Description": "; ".join(filter(None, (description, self.mark))),
            "SyntheticData": True,
            "Intensities": (
                f"in the units of the training images of {self.output.contrast}; MR has no physical units"
            ),
        }
        if self.model.get("limits"):
            facts["Limits"] = self.model["limits"]
        if self.tested:
            facts["Tested"] = self.tested
        facts["FitsTrainingData"] = {
            name: {"Fits": checked.fits, "Reasons": checked.reasons}
            for name, checked in self.given.items()
        }
        notes = [note for checked in self.given.values() for note in checked.said]
        warnings = [line for kind, line in (*notes, *self.said) if kind == "warning"]
        if warnings:
            facts["Warnings"] = [*dict.fromkeys(warnings)]
        return facts

    def content(self) -> dict[str, Any]:
        """The JSON file beside the image, with the keys of a BIDS derivative's."""
        folder = self.path.absolute().parent
        places = [os.path.relpath(source.absolute(), folder) for source in self.sources]
        return {
            **self.facts(),
            "Sources": [Path(place).as_posix() for place in places],
            "GeneratedBy": [{"Name": "gantk", "Version": __version__, "Description": self.by}],
        }
