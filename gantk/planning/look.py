"""Inspects scans: finds the source and domains that fit them, file facts, pixel statistics and the
fit of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gantk.catalog.contrasts import USUAL, usual_contrast
from gantk.catalog.layouts import layout_name
from gantk.data.check.check import Examination, examine, result_of
from gantk.data.check.pairs import Fit, fit_of
from gantk.data.dataset import expect_no_doubts
from gantk.data.preparation import Record, patients_of
from gantk.data.sources.pairing import complete_pairs, without_partner
from gantk.errors import UserError
from gantk.method import domain_letters
from gantk.planning.pixels import Pixels, pixels_of

MIN_EMPTY = 0.4  # share of pixels with exactly the background's value: it is masked


@dataclass
class Scans:
    """The result of inspecting scans."""

    found: dict[str, Any]  # the report of `gantk data check`
    source: dict[str, Any]  # data.source
    domains: list[str]
    records: list[Record]
    channels: int | None  # that all images are converted to
    examination: Examination
    pixels: dict[str, Pixels] = field(default_factory=dict)  # domain's letter -> statistics
    others: list[str] = field(default_factory=list)  # further contrasts in the folder, not used

    @cached_property
    def fit(self) -> Fit | None:
        """How well the images of each pair fit each other; None without pairs."""
        return fit_of([*complete_pairs(self.records).values()])

    @property
    def alone(self) -> int:
        """How many images have no partner where others have one."""
        return len(without_partner(self.records, complete_pairs(self.records)))

    @property
    def kinds(self) -> list[str]:
        """The usual contrast of each domain, such as t1 or ct, "" where its name states none."""
        return [usual_contrast(name) or "" for name in self.domains]

    @property
    def files(self) -> list[dict[str, Any]]:
        """The facts of the files that have a domain."""
        return [each for each in self.found["files"] if each["domains"] and "error" not in each]

    @property
    def suits_paired(self) -> bool:
        """Whether a paired method can learn from the scans: the pairs fit and are complete."""
        return bool(self.fit and self.fit.good and not self.alone)

    @property
    def volumes(self) -> int:
        return len({(record.domain, record.scan_key) for record in self.records if record.scan_key})

    @property
    def patients(self) -> int:
        return len(patients_of(self.records))

    @property
    def empty(self) -> float:
        """The domains' smallest share of pixels equal to the background's value: large after
        skull-stripping.
        """
        return min(each.empty for each in self.pixels.values())

    @property
    def is_masked(self) -> bool:
        """Whether the scans are volumes whose background has one value."""
        return bool(self.volumes) and self.empty > MIN_EMPTY

    @property
    def is_stripped(self) -> bool | None:
        """Whether most volumes are skull-stripped heads; None where this is unclear of all."""
        known = [file["skull"] for file in self.files if file.get("skull") is not None]
        return 2 * sum(known) < len(known) if known else None

    def warns(self, kind: str) -> bool:
        """Whether `data check` reported a warning or an error of this kind."""
        return any(
            each["kind"] == kind and each["severity"] != "note" for each in self.found["problems"]
        )


def look(path: Path, settings: Sequence[str], tell: Callable[[float, str], None]) -> Scans:
    """Find the source, domains and settings that read the scans best; UserError where no training
    could use them.
    """
    own = [*settings]
    scans = _read(path, own, tell)

    if scans.warns("channels"):
        own.append("data.channels=1")
        scans = _read(path, own, tell, scans)

    usage = scans.examination.usage
    assert usage is not None  # as `_read` made sure
    expect_no_doubts(usage.source, usage.table)
    if len(scans.domains) == 2:
        scans = _by_headers(path, own, scans, tell)

    tell(0.6, "pixels")
    for letter in domain_letters(tuple(scans.domains)):
        scans.pixels[letter] = pixels_of(
            [record for record in scans.records if record.domain == letter]
        )

    there = {usual_contrast(row.contrast) for row in scans.examination.rows}
    others = [name.upper() for name in there - {*scans.kinds} if name]
    scans.others = sorted(
        others, key=lambda name: (USUAL.index(name) if name in USUAL else len(USUAL), name)
    )
    return scans


def _read(
    path: Path,
    settings: Sequence[str],
    tell: Callable[[float, str], None],
    before: Scans | None = None,
) -> Scans:
    """Examine the images as `data check` does, with these settings; those that were read `before`
    are not read again.
    """
    found = examine(
        path,
        None,
        settings,
        inspected=before.examination.items if before else (),
        progress=lambda share, what: tell(0.5 * share, what),
    )
    for each in found.problems:
        if each["kind"] in ("source", "unreadable", "not-finite", "leak"):
            raise UserError(each["what"], where="SCANS", remedy=each["remedy"])

    usage = found.usage
    assert usage is not None  # else there is a problem of the kind "source"
    result = result_of(found)
    result["summary"].pop("held out", None)  # the plan may split otherwise
    source = usage.table.source.table()
    layout = layout_name(getattr(usage.source, "catalog", None))
    if layout:
        source["layout"] = layout
    domains = list(usage.table.domains)
    return Scans(result, source, domains, usage.records, usage.table.channels, found)


def _by_headers(
    path: Path, own: list[str], scans: Scans, tell: Callable[[float, str], None]
) -> Scans:
    """Read volumes, if a patient's two grids differ, with the second resampled onto the first by
    their headers. Returns the scans unchanged if that finds fewer patients or no pairs.
    """
    volumes = all(len(each["shape"]) == 3 for each in scans.files)
    if not volumes or (scans.fit and not scans.alone):
        return scans

    try:
        other = _read(path, [*own, "data.source.onto=a"], tell, scans)
    except UserError:  # this does not suit them
        return scans
    if not other.fit or other.alone or other.patients < scans.patients:
        return scans

    return other
