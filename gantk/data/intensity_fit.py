"""Intensity mappings fitted to the training split, and to nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gantk.data.channels import PerChannel
from gantk.data.items import Record
from gantk.data.preparation import Preparation
from gantk.errors import UserError

if TYPE_CHECKING:
    from gantk.recipe.tables import DataTable

FITTED = 256  # training images, or scans, that an intensity mapping looks at ...
FITTED_BYTES = 2**31  # ... and how much of them is held in memory


def fitted_mapping(
    table: DataTable, contrasts: tuple[str, ...], shown: list[Record], preparation: Preparation
) -> tuple[Any, int]:
    """The intensity mapping of a domain, fitted to these training images, and their channels."""
    if not shown:
        raise UserError(f"no training images of the domain '{'+'.join(contrasts)}'", where="data.split")
    mapping = table.intensity()
    if len(contrasts) > 1:
        mapping = PerChannel([table.intensity() for _ in contrasts], contrasts, table.dims)
    if getattr(mapping, "per", "set") == "volume":  # each scan once, whichever of its slices are trained on
        shown = list({record.scan_key or record.key: record for record in reversed(shown)}.values())[::-1]
    shown = _thinned(shown, FITTED)
    names = [contrasts, table.mask, [record.key for record in shown]]
    learnt = preparation.fact("fitted", shown, names, lambda: _learnt(table, contrasts, mapping, shown, preparation))
    one = table.intensity.target.from_state
    state = learnt["state"]
    return (PerChannel.from_state(state, one) if "contrasts" in state else one(state)), learnt["channels"]


def _learnt(
    table: DataTable, contrasts: tuple[str, ...], mapping: Any, shown: list[Record], preparation: Preparation
) -> dict[str, Any]:
    """The state of a mapping once it is fitted to these images, and their channels; UserError where they do not fit."""
    first = shown[0].read()
    if getattr(mapping, "per", "set") == "volume":
        _expect_contrasts(contrasts, len(first))
        counts, measured = {}, []
        for record in shown:
            counts.setdefault(len(record.read()), record.key)
            measured.append(preparation.measured(record, mapping))
        _expect_one_count(counts)
        mapping.settle(measured)
    else:
        shown = _thinned(shown, max(1, FITTED_BYTES // first.nbytes))
        images = [record.read() for record in shown]
        _expect_one_count({len(image): record.key for image, record in zip(images, shown, strict=True)})
        _expect_contrasts(contrasts, len(first))
        mapping.fit(images)
    for record in shown if table.mask else ():
        preparation.mask(record)
    return {"state": mapping.state(), "channels": len(first)}


def _expect_contrasts(contrasts: tuple[str, ...], count: int) -> None:
    if len(contrasts) in (1, count):
        return
    what = f"the domain '{'+'.join(contrasts)}' is {len(contrasts)} contrasts, and its images have {count}"
    raise UserError(
        what + (" channels" if count > 1 else " channel"),
        where="data.domains",
        remedy='use the source "contrasts", which takes one file for each contrast',
    )


def _expect_one_count(counts: dict[int, str]) -> None:
    """UserError where images of one domain differ in their channels; `counts` has an example of each."""
    if len(counts) > 1:
        detail = ", ".join(f"{count} in '{key}'" for count, key in counts.items())
        what = f"the images of one domain have different numbers of channels: {detail}"
        raise UserError(what, where="data.source", remedy="set data.source.channels = 1 or 3")


def _thinned(records: list[Record], count: int) -> list[Record]:
    step = max(1, -(-len(records) // count))
    return records[::step]
