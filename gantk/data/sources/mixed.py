"""The data source that joins others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gantk.data.preparation import Record
from gantk.data.sources.source import ImageSource
from gantk.errors import UserError
from gantk.plugin.spec import Source


class Mixed(ImageSource):
    """All images of several sources, each with its options: `sources = [{ name = "files", path =
    ... }, "phantom"]`.

    Patients of two sources count as different even if their names are equal: each name gets the
    number of its source as a prefix. Every image is drawn equally often, so a source with more
    images has more weight.
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
            raise UserError(
                f"the source 'mixed' joins two or more sources, but data.source.sources has {len(sources)}",
                where="data.source.sources",
                remedy='set for example sources = [{ name = "files", path = "scans" }, "phantom"]',
            )

        self.parts = [make(domains, dims, size) for make in sources]

    def records(self) -> list[Record]:
        """The records of all sources; the source's number is put before each subject, key, pair and
        scan key.
        """
        records = []
        for number, part in enumerate(self.parts):
            mark = lambda name, number=number: name and f"{number}/{name}"  # noqa: E731
            for record in part.records():
                names: dict[str, Any] = {
                    field: mark(getattr(record, field))
                    for field in ("subject", "key", "pair", "scan_key")
                }
                records.append(replace(record, **names))

        # if one source sets splits, records without one are for training
        if any(record.split for record in records):
            records = [
                record if record.split else replace(record, split="train") for record in records
            ]

        return records
