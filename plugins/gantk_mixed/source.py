"""The data source that joins others."""

from __future__ import annotations

from dataclasses import replace

from gantk.data.preparation import Record
from gantk.data.resample import SamplingGrid
from gantk.errors import UserError
from gantk.plugin.spec import Source


class Mixed:
    """All images of several sources, each with its options: `sources = [{ name = "nifti", path = ... }, "phantom"]`.

    Patients of two sources are never the same one, whatever they are called: their names begin with the number of
    their source. An image is drawn as often as any other: a source counts by how many images it has.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        sources: list[Source] = [],  # two or more; each finds images of the recipe's domains
    ):
        if len(sources) < 2:
            what = f"'mixed' joins sources, and here {'is one' if sources else 'are none'}"
            remedy = 'for example sources = [{ name = "nifti", path = "scans" }, "phantom"]'
            raise UserError(what, where="data.source.sources", allowed="two or more", remedy=remedy)
        self.parts = [make(domains, dims, size) for make in sources]
        self.asks = ""

    def channels(self) -> dict[str, int]:
        """Of the first source that knows its own beforehand."""
        known = (part.channels() for part in self.parts if callable(getattr(part, "channels", None)))
        return next(known, {})

    def sees(self, view: SamplingGrid) -> None:
        """Volumes are sliced along this plane, at this spacing; computed heads are drawn as they are."""
        for part in self.parts:
            if hasattr(part, "sees"):
                part.sees(view)

    def records(self) -> list[Record]:
        """The records of all sources, subjects, keys, pairs and scans marked with their source's number."""
        found = []
        for number, part in enumerate(self.parts):
            if hasattr(part, "asks"):
                part.asks = self.asks
            mark = lambda name, number=number: name and f"{number}/{name}"  # noqa: E731
            for one in part.records():
                names = {field: mark(getattr(one, field)) for field in ("subject", "key", "pair", "scan_key")}
                found.append(replace(one, **names))
        if any(one.split for one in found):  # what no folder or column says is held out is trained on
            found = [one if one.split else replace(one, split="train") for one in found]
        return found
