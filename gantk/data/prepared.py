"""A recipe's [data] table at work: records split, intensities fitted on the training split, image sets ready."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gantk.data.batches import ImageSet
from gantk.data.channels import PerChannel
from gantk.data.labels import classes_of
from gantk.data.leakage import check_leakage
from gantk.data.masks import fitted
from gantk.data.pairing import complete_pairs, expect_pairs
from gantk.data.records import Record, contrast_names, domain_letters
from gantk.data.split import Splits, split_json, split_records, unpair
from gantk.data.stacks import Stacks, middle
from gantk.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

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
    channels: dict[str, int]  # per domain: contrasts x (2 neighbours + 1)
    classes: tuple[str, ...] = ()  # of the labels that batches carry, sorted
    contrasts: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of each domain: ("T1", "FLAIR")
    slices: dict[str, list[Record]] = field(default_factory=dict)  # the splits without neighbours, train as trained on

    @classmethod
    def load(cls, table: DataTable, method: type) -> Data:
        """Records of the recipe's source, split; UserError where they are not what the method needs."""
        letters = domain_letters(table.domains)
        records = _records(table, method)
        classes = classes_of(records, method.reads) if table.labels else ()
        _expect(table, method, records)
        stacks = Stacks(records, table.neighbours) if table.neighbours else None
        splits, how = split_records(records, **table.split.model_dump())
        training = _training(table, method, splits["train"])
        used = [record for record in training if record.domain in method.reads]
        contrasts = {letter: contrast_names(name) for letter, name in zip(letters, table.domains, strict=True)}
        intensity, channels = {}, {}
        for letter, names in contrasts.items():
            shown = [r for r in used if r.domain == letter] or [r for r in training if r.domain == letter]
            intensity[letter], count = _fitted(table, names, _thinned(shown, FITTED))
            channels[letter] = count * (2 * table.neighbours + 1)
        slices = splits | {"train": used}
        if stacks:
            used = stacks.of(used)
            splits = Splits({name: stacks.of(members) for name, members in splits.items()}, splits.by)
        return cls(table, letters, method.paired, splits, how, used, intensity, channels, classes, contrasts, slices)

    @property
    def range(self) -> tuple[float, float]:
        """The network intensities of black and white."""
        low, high = next(iter(self.intensity.values())).range
        return float(low), float(high)

    def centre(self, images: Tensor) -> Tensor:
        """The middle slice's channels of (N, C, *size) images; all of them where no neighbours come along."""
        return middle(images, self.table.neighbours)

    def training_sets(self) -> dict[str, ImageSet]:
        """The training images by domain, whole; paired ones in the same order."""
        table = self.table
        by_letter = {letter: [r for r in self.training if r.domain == letter] for letter in self.letters}
        return {
            letter: ImageSet(
                records,
                self.intensity[letter],
                table.size,
                table.fit,
                table.memory / len(self.letters),
                patch=table.patch,
                masks=table.mask,
                classes=self.classes,
            )
            for letter, records in by_letter.items()
            if records
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
            check_leakage(self.slices)
        except UserError as error:
            return error
        return None

    def description(self) -> list[str]:
        """What the data are, in lines for a person."""
        names = dict(zip(self.letters, self.table.domains, strict=False))
        counts = ", ".join(f"{sum(r.domain == x for r in self.training)} {names[x]}" for x in self.letters)
        what, count = ("pairs", self.pairs) if len(self.letters) == 2 else ("images", self.splits.get)
        held = f"{len(count('validation'))} validation and {len(count('test'))} test {what}"
        size = " x ".join(map(str, self.table.size))
        lines = [f"data     {self.table.source.name}: {counts} to train on, {held}, at {size}", f"split    {self.how}"]
        if self.classes:
            labels = [record.label for record in self.training]
            lines.append("classes  " + ", ".join(f"{labels.count(name)} {name}" for name in self.classes))
        lacking = sum(bool(record.missing) for record in self.training)
        if lacking:
            lines.append(f"missing  {lacking} of {len(self.training)} training images lack a contrast, which is masked")
        return lines

    def split_json(self) -> dict[str, Any]:
        """What split.json says: every image of every split, with a hash of every file."""
        return {"how": self.how, "splits": split_json(self.slices)}

    def intensity_state(self) -> dict[str, Any]:
        """The fitted mappings, for the checkpoint."""
        return {letter: mapping.state() for letter, mapping in self.intensity.items()}

    def restore_intensity(self, state: dict[str, Any]) -> None:
        """Take the mappings of a checkpoint: the same to the bit, wherever the training images now come from."""
        self.intensity.update(intensity_from(self.table, state))

    @cached_property
    def _pairs(self) -> dict[str, list[dict[str, Record]]]:
        return {split: list(complete_pairs(records).values()) for split, records in self.splits.items()}


def intensity_from(table: DataTable, state: dict[str, Any]) -> dict[str, Any]:
    """The fitted mappings that `Data.intensity_state` described."""
    one = table.intensity.target.from_state
    return {
        letter: PerChannel.from_state(each, one) if "contrasts" in each else one(each) for letter, each in state.items()
    }


def _records(table: DataTable, method: type) -> list[Record]:
    """All records of the recipe's source."""
    if set(method.reads) - set(domain_letters(table.domains)):
        what = f"this method needs {len(method.reads)} domains, and data.domains names {len(table.domains)}"
        raise UserError(what, where="data.domains", remedy='for example domains = ["T1", "T2"]')
    try:
        return table.source(table.domains, table.dims, table.size).records()
    except UserError as error:
        error.where = error.where or "data.source"
        raise


def _training(table: DataTable, method: type, records: list[Record]) -> list[Record]:
    """The training split as the method wants it: complete pairs, a[i] beside b[i], or an unpaired study."""
    if method.paired:
        complete = complete_pairs(records)
        paired = (record for record in records if record.pair in complete)
        return sorted(paired, key=lambda record: (record.domain, record.pair))
    return unpair(records, table.split.seed) if table.unpair else records


def _expect(table: DataTable, method: type, records: list[Record]) -> None:
    """UserError where records lack what the recipe or the method asks for."""
    needed = [record for record in records if record.domain in method.reads]
    if method.paired:
        expect_pairs(needed, table.domains)
    if table.mask and not any(record.mask for record in needed):
        raise UserError(
            "no image of the source has a lesion mask",
            where="data.mask",
            remedy='tell the source which files are masks (mask = "seg"), give the phantom lesions, or do without',
        )
    lacking = [r for r in needed if r.missing and (table.missing == "refuse" or (method.paired and r.domain == "b"))]
    if lacking:
        refused = table.missing == "refuse"
        raise UserError(
            f"{len(lacking)} of {len(needed)} images lack a contrast{'' if refused else ' that is to be made'}: "
            f"the first is '{lacking[0].key}' without {' and '.join(lacking[0].missing)}",
            where="data.missing",
            remedy=("remove them, " + ('set data.missing = "mask" to train a network that does without, ' * refused))
            + "or leave that contrast out of data.domains",
        )


def _fitted(table: DataTable, contrasts: tuple[str, ...], shown: list[Record]) -> tuple[Any, int]:
    """The intensity mapping of a domain, fitted to these images, and their channels."""
    if not shown:
        raise UserError(f"no training images of the domain '{'+'.join(contrasts)}'", where="data.split")
    images = [record.read() for record in shown]
    count = _channels(images, shown)
    if table.mask:
        for image, record in zip(images, shown, strict=True):
            if record.mask is not None:
                fitted(record.mask(), image.shape[1:], table.size, table.fit, record.key)
    mapping = table.intensity()
    if len(contrasts) > 1:
        if count != len(contrasts):
            what = f"the domain '{'+'.join(contrasts)}' is {len(contrasts)} contrasts, and its images have {count}"
            raise UserError(
                what + (" channels" if count > 1 else " channel"),
                where="data.domains",
                remedy='use the source "contrasts", which takes one file for each contrast',
            )
        mapping = PerChannel([table.intensity() for _ in contrasts], contrasts, table.dims)
    mapping.fit(images)
    return mapping, count


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
