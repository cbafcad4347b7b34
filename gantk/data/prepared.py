"""A recipe's [data] table at work: records split, intensities fitted on the training split, image sets ready."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gantk.data.batches import ImageSet
from gantk.data.records import Record, domain_letters
from gantk.data.split import check_leakage, split_json, split_records, unpair
from gantk.errors import UserError

if TYPE_CHECKING:
    from gantk.tables import DataTable

FITTED = 256  # training images that an intensity mapping looks at


@dataclass
class Data:
    """The data of one run: `splits` of records, and one fitted intensity mapping per domain."""

    table: DataTable
    letters: tuple[str, ...]  # ("a", "b") or ("image",)
    paired: bool
    splits: dict[str, list[Record]]  # train, validation, test
    how: str  # how the split was made, in words
    training: list[Record]  # the training split as this method sees it: unpaired where it must be
    intensity: dict[str, Any]
    channels: dict[str, int]

    @classmethod
    def load(cls, table: DataTable, method: type) -> Data:
        """Records of the recipe's source, split; UserError where they are not what the method needs."""
        letters = domain_letters(table.domains)
        if set(method.reads) - set(letters):
            what = f"this method needs {len(method.reads)} domains, and data.domains names {len(table.domains)}"
            raise UserError(what, where="data.domains", remedy='for example domains = ["T1", "T2"]')
        try:
            records = table.source(table.domains, table.dims, table.size).records()
        except UserError as error:
            error.where = error.where or "data.source"
            raise
        split = table.split
        splits, how = split_records(
            records,
            test=split.test,
            validation=split.validation,
            by=split.by,
            gap=split.gap,
            blocks=split.blocks,
            seed=split.seed,
        )
        training = splits["train"]
        if method.paired:
            training = _pairs_only(training)
        elif table.unpair:
            training = unpair(training, split.seed)
        used = [record for record in training if record.domain in method.reads]
        intensity, channels = {}, {}
        for letter in letters:
            shown = _thinned(
                [r for r in used if r.domain == letter] or [r for r in training if r.domain == letter], FITTED
            )
            if not shown:
                raise UserError(
                    f"no training images of the domain '{table.domains[letters.index(letter)]}'", where="data.split"
                )
            images = [record.read() for record in shown]
            channels[letter] = _channels(images, shown)
            intensity[letter] = table.intensity()
            intensity[letter].fit(images)
        return cls(table, letters, method.paired, splits, how, used, intensity, channels)

    @property
    def range(self) -> tuple[float, float]:
        """The network intensities of black and white."""
        low, high = next(iter(self.intensity.values())).range
        return float(low), float(high)

    def training_sets(self) -> dict[str, ImageSet]:
        """The training images by domain; paired ones in the same order."""
        table = self.table
        share = table.memory / len(self.letters)
        names = [letter for letter in self.letters if any(r.domain == letter for r in self.training)]
        return {
            name: ImageSet(
                [r for r in self.training if r.domain == name], self.intensity[name], table.size, table.fit, share
            )
            for name in names
        }

    def pairs(self, split: str) -> list[dict[str, Record]]:
        """Registered pairs of a split, known for evaluation: {"a": record, "b": record}, in order."""
        return self._pairs[split]

    def unpaired(self, letter: str) -> list[Record]:
        """Held-out records of a domain where no pairs are known; training records where nothing is held out."""
        for split in ("validation", "test", "train"):
            found = [record for record in self.splits[split] if record.domain == letter]
            if found:
                return found
        return []

    def leaks(self) -> UserError | None:
        """What stands on both sides of the split, or None."""
        try:
            check_leakage(self.splits | {"train": self.training})
        except UserError as error:
            return error
        return None

    def description(self) -> list[str]:
        """What the data are, in lines for a person."""
        names = dict(zip(self.letters, self.table.domains, strict=False))
        counts = ", ".join(f"{sum(r.domain == x for r in self.training)} {names[x]}" for x in self.letters)
        held = f"{len(self.pairs('validation'))} validation and {len(self.pairs('test'))} test pairs"
        size = " x ".join(map(str, self.table.size))
        return [f"data     {self.table.source.name}: {counts} to train on, {held}, at {size}", f"split    {self.how}"]

    def split_json(self) -> dict[str, Any]:
        """What split.json says: every image of every split, with a hash of every file."""
        return {"how": self.how, "splits": split_json(self.splits | {"train": self.training})}

    def intensity_state(self) -> dict[str, Any]:
        """The fitted mappings, for the checkpoint."""
        return {letter: mapping.state() for letter, mapping in self.intensity.items()}

    def restore_intensity(self, state: dict[str, Any]) -> None:
        """Take the mappings of a checkpoint: the same to the bit, wherever the training images now come from."""
        self.intensity.update(intensity_from(self.table, state))

    @cached_property
    def _pairs(self) -> dict[str, list[dict[str, Record]]]:
        found = {}
        for split, records in self.splits.items():
            by_pair: dict[str, dict[str, Record]] = {}
            for record in records:
                if record.pair is not None:
                    by_pair.setdefault(record.pair, {})[record.domain] = record
            found[split] = [pair for pair in by_pair.values() if pair.keys() == {"a", "b"}]
        return found


def intensity_from(table: DataTable, state: dict[str, Any]) -> dict[str, Any]:
    """The fitted mappings that `Data.intensity_state` described."""
    return {letter: table.intensity.target.from_state(each) for letter, each in state.items()}


def _pairs_only(records: list[Record]) -> list[Record]:
    """Complete pairs, a[i] beside b[i]; UserError where none is known."""
    known: dict[str, set[str]] = {}
    for record in records:
        if record.pair is not None:
            known.setdefault(record.pair, set()).add(record.domain)
    complete = {pair for pair, domains in known.items() if domains == {"a", "b"}}
    if not complete:
        remedy = (
            "give a CSV of pairs (data.source.pairs), side-by-side pictures, or use an unpaired method such as dualgan"
        )
        raise UserError(
            "this method learns from registered pairs, and the source knows none", where="data.source", remedy=remedy
        )
    return sorted((r for r in records if r.pair in complete), key=lambda record: (record.domain, record.pair))


def _channels(images: list, records: list[Record]) -> int:
    counts = {len(image): record.key for image, record in zip(images, records, strict=True)}
    if len(counts) > 1:
        detail = ", ".join(f"{count} in '{key}'" for count, key in counts.items())
        what = f"the images of one domain have different numbers of channels: {detail}"
        raise UserError(what, where="data.source", remedy="set data.source.channels = 1 or 3")
    return next(iter(counts))


def _thinned(records: list[Record], count: int) -> list[Record]:
    step = max(1, -(-len(records) // count))
    return records[::step]
